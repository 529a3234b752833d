// SPDX-License-Identifier: Apache-2.0
#include "split/split_plan.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <set>

#include "core/error.h"
#include "kernels/backend.h"
#include "split/expert_sum.h"
#include "split/layer_gate.h"
#include "split/neuron_indices.h"
#include "split/spilled.h"
#include "split/text_clusters.h"
#include "split/text_stream.h"

namespace moe {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kHeldBack = 8;  // every so many documents of the calibration text

bool contains(const std::vector<std::int64_t>& list, std::int64_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

class Planner {
 public:
  Planner(const ModelFolder& dense, const SplitOptions& options, Communicator& world,
          const PlannedLayer& planned)
      : dense_(dense), o_(options), world_(world), planned_(planned) {
    if (o_.indices) take_indices();
    construction_ = make_construction(o_.indices ? "random" : o_.method, o_.construction);
    const bool calibrated = !o_.calibration.shards.empty();
    if (o_.shared > 0 && calibrated && !o_.indices && !construction_->shares() &&
        construction_->coverage() == Coverage::exact)
      construction_ = share_by_energy(std::move(construction_));
    plan_.gate_init =
        o_.gate.value_or(o_.format == ModelFormat::llama_moe ? GateInit::mlp : GateInit::linear);
    plan_.seed = o_.seed;
    plan_.attention_gate = o_.attention.gate;
    plan_.method = o_.indices ? "indices" : o_.experts == 0 ? "none" : o_.method;
    check_split_options(o_, dense_, *construction_, plan_.gate_init);
    const std::int64_t neurons = dense_.config().intermediate_size;
    for (std::int64_t l = 0; l < dense_.config().layers; ++l) {
      ExpertSizes sizes;
      if (const auto given = given_.find(l); given != given_.end())
        sizes = {sizes_of(given->second.experts), sizes_of(given->second.shared)};
      else if (!left_dense(l))
        sizes = expert_sizes_for(o_, *construction_, neurons);
      sizes_.push_back(std::move(sizes));
    }
    plan_.config = mixture_config(o_, dense_.config(), plan_.gate_init, sizes_);
    top_ks_ = {o_.top_k};
    for (std::int64_t k = 1; o_.every_top_k && k <= o_.experts; ++k) top_ks_.insert(k);
  }

  SplitPlan make() {
    const auto start = Clock::now();
    if (o_.calibration.shards.empty()) {
      for (std::int64_t l = 0; l < dense_.config().layers; ++l) {
        if (left_dense(l)) continue;
        const FfnWeights weights = [&](std::string_view part) {
          const std::string name = str("layers.", l, ".ffn.", part, ".weight");
          dense_.require_finite(name);
          return dense_.read(name, DType::f32);
        };
        plan_.layers.emplace(l, divided(l, weights, nullptr));
      }
    } else {
      dense_.require_finite();
      load_texts();
      clusters_.emplace(o_, dense_, text_, world_);
      importance_ = clusters_->importance(construction_->need());
      plan_layers();
    }
    if (plan_.config.is_moe()) plan_.config = plan_.config_with(o_.top_k);
    plan_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return std::move(plan_);
  }

 private:
  bool left_dense(std::int64_t l) const { return o_.experts == 0 || contains(o_.dense_layers, l); }

  /// Whether layers are fitted to what those before them give once they are split, and validation
  /// text decides: so with everything that is fitted in closed form.
  bool follows_split_model() const {
    return o_.experts > 0 &&
           (o_.refit != SplitRefit::none || construction_->need() == CalibrationNeed::own_inputs ||
            plan_.gate_init == GateInit::logistic);
  }

  void load_texts() {
    const bool hold_back = follows_split_model() && o_.validation.empty();
    FitTexts texts =
        load_and_hold_back(o_.calibration, dense_, o_.seed, hold_back ? kHeldBack : 0, world_);
    text_ = std::move(texts.fit);
    validation_ = std::move(texts.validation);
    if (follows_split_model() && !hold_back) {
      CalibrationOptions options = o_.calibration;
      options.shards = o_.validation;
      options.tokens = std::max<std::int64_t>(1, options.tokens / (kHeldBack - 1));
      validation_ = load_calibration(options, dense_, o_.seed, world_);
    }
    require_disjoint(text_.hashes, "calibration text", validation_.hashes, "validation text");
    for (const std::filesystem::path& shard : o_.unseen) {
      const auto unseen = document_hashes(shard, o_.calibration, dense_);
      require_disjoint(text_.hashes, "calibration text", unseen, shard.string());
      require_disjoint(validation_.hashes, "validation text", unseen, shard.string());
    }
    plan_.calibration_tokens = text_.all_tokens;
    plan_.validation_tokens = validation_.all_tokens;
  }

  /// The calibration text, the validation text where there is any, and both on their way through
  /// the dense model where the refit wants that.
  struct Streams {
    TextStream fit;
    std::optional<TextStream> validation, dense_fit, dense_validation;

    template <class F>
    void each(F&& f) {
      f(fit);
      for (auto* s : {&validation, &dense_fit, &dense_validation})
        if (*s) f(**s);
    }
  };

  void plan_layers() {
    Streams streams{TextStream(dense_, text_), {}, {}, {}};
    if (follows_split_model()) streams.validation.emplace(dense_, validation_);
    if (o_.refit != SplitRefit::none && o_.refit_to_dense_stream) {
      streams.dense_fit.emplace(dense_, text_);
      streams.dense_validation.emplace(dense_, validation_);
    }
    for (std::int64_t l = 0; l < dense_.config().layers; ++l) {
      const DenseLayer layer(dense_, l);
      if (plan_.config.is_attention_moe() && plan_.config.is_attention_moe_layer(l))
        plan_.attention[l] =
            plan_attention_layer(o_.attention, plan_.config, l,
                                 gather_ranks(streams.fit.attention_input(layer), world_), o_.seed);
      streams.each([&](TextStream& s) { s.attend(layer); });
      if (left_dense(l)) {
        streams.each([&](TextStream& s) { s.add_dense_ffn(layer); });
        if (planned_) planned_(l, layer, nullptr);
      } else {
        plan_ffn(l, layer, streams);
      }
    }
  }

  /// Plans the FFN of a layer whose attention is behind the streams, and moves them on.
  void plan_ffn(std::int64_t l, const DenseLayer& dense, Streams& streams) {
    const FfnMatrices ffn{dense.gate(), dense.up(), dense.down()};
    const Tensor inputs = streams.fit.ffn_input(dense);
    const Tensor held_back = streams.validation ? streams.validation->ffn_input(dense) : Tensor();
    LayerCalibration calibration{{}, {}, inputs, held_back, &world_};
    if (wants_all_inputs()) calibration.inputs = gather_ranks(inputs, world_);
    if (!importance_.empty()) calibration.importance = importance_[std::size_t(l)];
    const FfnWeights weights = [&](std::string_view part) {
      return (part == "gate" ? ffn.gate : part == "up" ? ffn.up : ffn.down).clone();
    };
    SplitPlan::Layer layer = divided(l, weights, &calibration);
    make_gate(l, ffn, calibration, &layer);
    measure(ffn, held_back.defined() ? gather_ranks(held_back, world_) : calibration.inputs, l,
            &layer);

    const GateLogits logits = logits_of(l, layer, ffn);
    const double scale = layer.scale.at(o_.top_k);
    const auto route_rows = [&](const Tensor& x) {
      return route(logits(x), o_.top_k, plan_.config.moe);
    };
    if (streams.validation) {
      ExpertSum experts(ffn, layer.partition);
      const TokenRouting routing = route_rows(inputs), held_routing = route_rows(held_back);
      if (o_.refit != SplitRefit::none)
        refit(experts, ffn, dense, streams, {inputs, {}, routing}, {held_back, {}, held_routing},
              &layer);
      streams.fit.add(experts.output(inputs, routing, scale));
      streams.validation->add(experts.output(held_back, held_routing, scale));
      if (streams.dense_fit) streams.dense_fit->add_dense_ffn(dense);
      if (streams.dense_validation) streams.dense_validation->add_dense_ffn(dense);
    } else {
      streams.fit.add_dense_ffn(dense);
    }
    const SplitPlan::Layer& kept = plan_.layers.emplace(l, std::move(layer)).first->second;
    if (!planned_) return;
    const PlannedRouting told{kept, route_rows, scale};
    planned_(l, dense, &told);
  }

  void refit(ExpertSum& experts, const FfnMatrices& ffn, const DenseLayer& dense,
             const Streams& streams, RefitText text, RefitText held_back,
             SplitPlan::Layer* layer) const {
    const auto targets = [&](const Tensor& inputs, const TextStream& own,
                             const std::optional<TextStream>& parent) {
      if (!parent) return dense_ffn_output(inputs, ffn);
      Backend& device = backend(Device::cpu);
      Tensor y = dense_ffn_output(parent->ffn_input(dense), ffn);
      device.add_into(y, parent->rows());
      Tensor mine = own.rows();
      device.scale(mine, -1);
      device.add_into(y, mine);
      return y;
    };
    text.targets = targets(text.inputs, streams.fit, streams.dense_fit);
    held_back.targets = targets(held_back.inputs, *streams.validation, streams.dense_validation);
    layer->refit = refit_layer(experts, std::int64_t(concatenated(layer->partition.shared).size()),
                               text, held_back, layer->scale.at(o_.top_k),
                               o_.refit == SplitRefit::down_and_bias, o_.refit_ridges, world_);
    if (!layer->refit->down.defined()) return;
    layer->refit->down = spilled(layer->refit->down);
    experts.set_down(layer->refit->down, layer->refit->bias);
  }

  bool wants_all_inputs() const {
    const CalibrationNeed need = construction_->need();
    const bool by_closed_form =
        plan_.gate_init == GateInit::logistic || plan_.gate_init == GateInit::representative;
    return need == CalibrationNeed::inputs || need == CalibrationNeed::importance_by_input ||
           !follows_split_model() || !by_closed_form;
  }

  void take_indices() {
    const std::int64_t layers = dense_.config().layers;
    given_ = read_indices(*o_.indices, layers, dense_.config().intermediate_size);
    const Partition& first = given_.begin()->second;
    o_.experts = std::int64_t(first.experts.size());
    o_.shared = std::int64_t(first.shared.size());
    o_.dense_layers.clear();
    for (std::int64_t l = 0; l < layers; ++l)
      if (!given_.contains(l)) o_.dense_layers.push_back(l);
  }

  /// The layer's neurons divided, with scales that ask no text.
  SplitPlan::Layer divided(std::int64_t l, const FfnWeights& weights,
                           const LayerCalibration* calibration) {
    SplitContext context;
    context.layer = l;
    context.seed = o_.seed;
    context.neurons = dense_.config().intermediate_size;
    const ExpertSizes& sizes = sizes_[std::size_t(l)];
    context.sizes = sizes.routed;
    context.shared_sizes = sizes.shared;
    context.top_k = o_.top_k;
    context.calibration = calibration;

    SplitPlan::Layer layer;
    if (const auto given = given_.find(l); given != given_.end()) {
      layer.partition = given->second;
    } else {
      LayerSplit split = construction_->split(context, weights);
      layer.partition = std::move(split.partition);
      layer.measures = std::move(split.measures);
      layer.representatives = std::move(split.representatives);
      check_partition(layer.partition, context.neurons, construction_->coverage());
      MOE_CHECK(sizes_of(layer.partition.experts) == sizes.routed &&
                    sizes_of(layer.partition.shared) == sizes.shared,
                "the construction made experts of ", join(sizes_of(layer.partition.experts), ", "),
                " neurons, not of ", join(sizes.routed, ", "));
    }
    for (const std::int64_t k : top_ks_)
      layer.scale[k] =
          o_.weights == SplitWeights::unit ? 1
          : o_.weights == SplitWeights::flat
              ? double(k)
              : scale_without_text(o_.scale, construction_->natural_scale(o_.experts, k),
                                   o_.experts, k, plan_.config.moe.softmax_over_all);
    return layer;
  }

  void make_gate(std::int64_t l, const FfnMatrices& ffn, const LayerCalibration& calibration,
                 SplitPlan::Layer* layer) {
    const GateInit init = plan_.gate_init;
    const Tensor& inputs = calibration.inputs;
    if (init == GateInit::centers) {
      const TokenClustering& found = clusters_->of_inputs(l, inputs);
      layer->gate_agreement = routing_agreement(inputs, found);
      TokenClustering gate = construction_->need() == CalibrationNeed::importance_by_input
                                 ? found
                                 : matched_to_experts(found, inputs, ffn, layer->partition.experts);
      layer->gate.weight = gate.weight.clone();
      backend(Device::cpu).scale(layer->gate.weight, 1 / o_.gate_temperature);
      if (plan_.config.moe.gate_bias) layer->gate.bias = gate.bias;
    } else if (init == GateInit::select || init == GateInit::select_linear) {
      const Tensor mass = activation_mass(inputs, ffn, layer->partition.experts);
      layer->gate =
          train_gate(gate_kind(init), inputs, best_experts(mass, o_.top_k, 1.0 / double(o_.top_k)),
                     o_.seed, std::uint64_t(l));
    } else if (init == GateInit::logistic) {
      layer->gate = fit_layer_gate(calibration.own, ffn, layer->partition, o_.top_k,
                                   plan_.config.moe.gate_bias, world_);
    }
    if (o_.weights != SplitWeights::flat) return;
    if (init == GateInit::linear || init == GateInit::zeros) layer->gate = initial_gate(l);
    flatten_gate(layer->gate, calibration.own, world_);
  }

  /// The gate as it starts where no text says anything.
  GateWeights initial_gate(std::int64_t l) const {
    GateWeights gate;
    const ParameterRows rows = gate_weights(plan_.config, plan_.gate_init, o_.seed);
    const std::string router = str("layers.", l, ".router.");
    if (plan_.config.moe.gate == GateKind::mlp) {
      gate.hidden = rows(router + "hidden.weight", 0, o_.experts);
      gate.output = rows(router + "output.weight", 0, o_.experts);
    } else {
      gate.weight = rows(router + "weight", 0, o_.experts);
    }
    return gate;
  }

  GateLogits logits_of(std::int64_t l, const SplitPlan::Layer& layer,
                       const FfnMatrices& ffn) const {
    if (plan_.gate_init == GateInit::representative)
      return representative_logits(ffn, layer.representatives);
    const bool made = layer.gate.weight.defined() || layer.gate.hidden.defined();
    return [gate = made ? layer.gate : initial_gate(l)](const Tensor& x) {
      return gate_logits(gate, x);
    };
  }

  void measure(const FfnMatrices& ffn, const Tensor& inputs, std::int64_t l,
               SplitPlan::Layer* layer) const {
    const Tensor logits = logits_of(l, *layer, ffn)(inputs);
    for (auto& [k, scale] : layer->scale) {
      const TokenRouting routing = route(logits, k, plan_.config.moe);
      LayerQuality q = measure_layer(inputs, ffn, layer->partition, routing, scale);
      if (o_.scale.rule == SplitScale::Rule::least_squares && q.best_scale > 0) {
        for (double& c : q.channel_scale) c *= scale / q.best_scale;
        scale = q.best_scale;
        q.error = q.best_error;
      }
      if (o_.align && k == o_.top_k) layer->channel_scale = q.channel_scale;
      layer->quality.emplace(k, std::move(q));
    }
  }

  const ModelFolder& dense_;
  SplitOptions o_;  // as given, but for what `indices` says
  Communicator& world_;
  std::map<std::int64_t, Partition> given_;  // by `indices`
  std::unique_ptr<Construction> construction_;
  std::vector<ExpertSizes> sizes_;  // of each layer
  const PlannedLayer& planned_;
  CalibrationText text_, validation_;
  std::optional<TextClusters> clusters_;
  std::vector<Tensor> importance_;
  std::set<std::int64_t> top_ks_;
  SplitPlan plan_;
};

}  // namespace

ModelConfig SplitPlan::config_with(std::int64_t top_k) const {
  ModelConfig c = config;
  c.moe.top_k = top_k;
  for (const auto& [l, layer] : layers) c.moe.score_scale[std::size_t(l)] = layer.scale.at(top_k);
  return c;
}

SplitPlan plan_split(const ModelFolder& dense, const SplitOptions& options, Communicator& world,
                     const PlannedLayer& planned) {
  return Planner(dense, options, world, planned).make();
}

}  // namespace moe
