// SPDX-License-Identifier: Apache-2.0
#include "split/split_plan.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <set>

#include "core/error.h"
#include "kernels/backend.h"
#include "split/balanced_assignment.h"
#include "split/importance.h"
#include "split/neuron_indices.h"

namespace moe {
namespace {

using Clock = std::chrono::steady_clock;

bool contains(const std::vector<std::int64_t>& list, std::int64_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

/// The mean of each piece of text's rows of x, and which piece each row belongs to.
struct Documents {
  Tensor means;  // f32 [this rank's pieces, hidden]
  std::vector<std::int32_t> piece_of;
};

Documents document_means(const Tensor& x, const CalibrationText& text) {
  Documents d;
  std::int64_t pieces = 0, row = 0;
  for (const Batch& b : text.batches) pieces += b.tokens.rows();
  d.means = Tensor::zeros({pieces, x.cols()}, DType::f32);
  std::int32_t piece = 0;
  for (const Batch& b : text.batches)
    for (std::int64_t s = 0; s < b.tokens.rows(); ++s, ++piece) {
      float* mean = d.means.data<float>() + piece * x.cols();
      std::int64_t n = 0;
      for (std::int64_t t = 0; t < b.tokens.cols(); ++t) {
        if (b.tokens.data<std::int32_t>()[s * b.tokens.cols() + t] < 0) continue;
        const float* from = x.data<float>() + row++ * x.cols();
        for (std::int64_t i = 0; i < x.cols(); ++i) mean[i] += from[i];
        d.piece_of.push_back(piece);
        ++n;
      }
      for (std::int64_t i = 0; i < x.cols(); ++i) mean[i] /= float(std::max<std::int64_t>(n, 1));
    }
  return d;
}

/// Rows of this rank within what gather_ranks made of all ranks' rows.
std::int64_t rows_before(std::int64_t mine, Communicator& world) {
  Tensor counts = Tensor::zeros({world.size()}, DType::i64);
  counts.data<std::int64_t>()[world.rank()] = mine;
  world.all_reduce(counts, ReduceOp::sum).wait();
  return std::accumulate(counts.data<std::int64_t>(), counts.data<std::int64_t>() + world.rank(),
                         std::int64_t{0});
}

std::vector<std::int32_t> own_labels(const TokenClustering& all, std::int64_t mine,
                                     Communicator& world) {
  const std::int64_t first = rows_before(mine, world);
  return {all.labels.begin() + first, all.labels.begin() + first + mine};
}

class Planner {
 public:
  Planner(const ModelFolder& dense, const SplitOptions& options, Communicator& world)
      : dense_(dense), o_(options), world_(world) {
    if (o_.indices) take_indices();
    construction_ = make_construction(o_.indices ? "random" : o_.method, o_.construction);
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
        add_layer(l, weights, {});
      }
    } else {
      dense_.require_finite();
      text_ = load_calibration(o_.calibration, dense_, o_.seed, world_);
      plan_.calibration_tokens = text_.all_tokens;
      score_importance();
      const LayerVisit visit = [&](std::int64_t l, const DenseLayer& layer, const Tensor& own) {
        if (left_dense(l)) return;
        const FfnWeights weights = [&](std::string_view part) {
          return (part == "gate" ? layer.gate() : part == "up" ? layer.up() : layer.down()).clone();
        };
        add_layer(l, weights, gather_ranks(own, world_));
      };
      visit_layers(dense_, text_, visit, attention_visit());
    }
    if (plan_.config.is_moe()) plan_.config = plan_.config_with(o_.top_k);
    plan_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return std::move(plan_);
  }

 private:
  bool left_dense(std::int64_t l) const { return o_.experts == 0 || contains(o_.dense_layers, l); }

  /// Plans the attention of every layer that has experts in it; nothing where none has.
  LayerVisit attention_visit() {
    if (!plan_.config.is_attention_moe()) return {};
    return [this](std::int64_t l, const DenseLayer&, const Tensor& own) {
      if (plan_.config.is_attention_moe_layer(l))
        plan_.attention[l] =
            plan_attention_layer(o_.attention, plan_.config, l, gather_ranks(own, world_), o_.seed);
    };
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

  /// Clusters of the layer's inputs: for importance by input and for gates from centres.
  const TokenClustering& clusters(std::int64_t l, const Tensor& all_inputs) {
    const auto known = clusters_.find(l);
    if (known != clusters_.end()) return known->second;
    return clusters_
        .emplace(l, cluster_tokens(all_inputs, o_.experts, o_.gate_metric, o_.gate_balanced,
                                   o_.seed, std::uint64_t(l)))
        .first->second;
  }

  void score_importance() {
    const CalibrationNeed need = construction_->need();
    std::map<std::int64_t, std::vector<std::int32_t>> labels;
    if (need == CalibrationNeed::importance_by_input) {
      visit_layers(dense_, text_, [&](std::int64_t l, const DenseLayer&, const Tensor& own) {
        labels[l] = own_labels(clusters(l, gather_ranks(own, world_)), own.rows(), world_);
      });
    } else if (need == CalibrationNeed::importance_by_document) {
      // Documents are known by the mean of what the last FFN is given.
      Documents documents;
      visit_layers(dense_, text_, [&](std::int64_t l, const DenseLayer&, const Tensor& own) {
        if (l + 1 == dense_.config().layers) documents = document_means(own, text_);
      });
      const TokenClustering found =
          cluster_tokens(gather_ranks(documents.means, world_), o_.experts, TokenMetric::cosine,
                         false, o_.seed, std::uint64_t(dense_.config().layers));
      const std::vector<std::int32_t> own = own_labels(found, documents.means.rows(), world_);
      std::vector<std::int32_t> by_token;
      for (const std::int32_t piece : documents.piece_of)
        by_token.push_back(own[std::size_t(piece)]);
      for (std::int64_t l = 0; l < dense_.config().layers; ++l) labels[l] = by_token;
    } else {
      return;
    }
    importance_ = importance_scores(
        dense_, text_,
        [&](std::int64_t l) -> const std::vector<std::int32_t>& { return labels.at(l); },
        o_.experts, world_);
  }

  void add_layer(std::int64_t l, const FfnWeights& weights, const Tensor& inputs) {
    LayerCalibration calibration{inputs, {}};
    if (!importance_.empty()) calibration.importance = importance_[std::size_t(l)];
    SplitContext context;
    context.layer = l;
    context.seed = o_.seed;
    context.neurons = dense_.config().intermediate_size;
    const ExpertSizes& sizes = sizes_[std::size_t(l)];
    context.sizes = sizes.routed;
    context.shared_sizes = sizes.shared;
    if (inputs.defined()) context.calibration = &calibration;

    SplitPlan::Layer layer;
    if (const auto given = given_.find(l); given != given_.end()) {
      layer.partition = given->second;
    } else {
      LayerSplit split = construction_->split(context, weights);
      layer.partition = std::move(split.partition);
      layer.measures = std::move(split.measures);
      check_partition(layer.partition, context.neurons, construction_->coverage());
      MOE_CHECK(sizes_of(layer.partition.experts) == sizes.routed &&
                    sizes_of(layer.partition.shared) == sizes.shared,
                "the construction made experts of ", join(sizes_of(layer.partition.experts), ", "),
                " neurons, not of ", join(sizes.routed, ", "));
    }
    for (const std::int64_t k : top_ks_)
      layer.scale[k] = scale_without_text(o_.scale, construction_->natural_scale(o_.experts, k),
                                          o_.experts, k, plan_.config.moe.softmax_over_all);
    if (inputs.defined()) {
      const FfnMatrices ffn{weights("gate"), weights("up"), weights("down")};
      make_gate(l, ffn, inputs, &layer);
      measure(ffn, inputs, l, &layer);
    }
    plan_.layers.emplace(l, std::move(layer));
  }

  void make_gate(std::int64_t l, const FfnMatrices& ffn, const Tensor& inputs,
                 SplitPlan::Layer* layer) {
    const GateInit init = plan_.gate_init;
    if (init == GateInit::centers) {
      const TokenClustering& found = clusters(l, inputs);
      layer->gate_agreement = routing_agreement(inputs, found);
      TokenClustering gate = construction_->need() == CalibrationNeed::importance_by_input
                                 ? found
                                 : matched_to_experts(found, inputs, ffn, layer->partition.experts);
      layer->gate.weight = gate.weight.clone();
      backend(Device::cpu).scale(layer->gate.weight, 1 / o_.gate_temperature);
      if (plan_.config.moe.gate_bias) layer->gate.bias = gate.bias;
    } else if (init == GateInit::select || init == GateInit::select_linear) {
      const Tensor mass = activation_mass(inputs, ffn, layer->partition.experts);
      layer->gate = train_gate(gate_kind(init), inputs, best_experts(mass, o_.top_k), o_.seed,
                               std::uint64_t(l));
    }
  }

  void measure(const FfnMatrices& ffn, const Tensor& inputs, std::int64_t l,
               SplitPlan::Layer* layer) const {
    GateWeights gate = layer->gate;
    if (!gate.weight.defined() && !gate.hidden.defined()) {
      const ParameterRows rows = gate_weights(plan_.config, plan_.gate_init, o_.seed);
      const std::string router = str("layers.", l, ".router.");
      if (plan_.config.moe.gate == GateKind::mlp) {
        gate.hidden = rows(router + "hidden.weight", 0, o_.experts);
        gate.output = rows(router + "output.weight", 0, o_.experts);
      } else {
        gate.weight = rows(router + "weight", 0, o_.experts);
      }
    }
    const Tensor logits = gate_logits(gate, inputs);
    for (auto& [k, scale] : layer->scale) {
      const TokenRouting routing = route(logits, k, plan_.config.moe.softmax_over_all);
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

  /// The clusters in the order of the experts whose neurons fire most for them, one cluster each.
  static TokenClustering matched_to_experts(const TokenClustering& found, const Tensor& inputs,
                                            const FfnMatrices& ffn, const NeuronSets& experts);

  const ModelFolder& dense_;
  SplitOptions o_;  // as given, but for what `indices` says
  Communicator& world_;
  std::map<std::int64_t, Partition> given_;  // by `indices`
  std::unique_ptr<Construction> construction_;
  std::vector<ExpertSizes> sizes_;  // of each layer
  CalibrationText text_;
  std::map<std::int64_t, TokenClustering> clusters_;
  std::vector<Tensor> importance_;
  std::set<std::int64_t> top_ks_;
  SplitPlan plan_;
};

TokenClustering Planner::matched_to_experts(const TokenClustering& found, const Tensor& inputs,
                                            const FfnMatrices& ffn, const NeuronSets& experts) {
  const auto n = std::int64_t(experts.size());
  const Tensor mass = activation_mass(inputs, ffn, experts);
  std::vector<double> share(std::size_t(n * n), 0.0);
  for (std::int64_t t = 0; t < mass.rows(); ++t) {
    const float* m = mass.data<float>() + t * n;
    const double all = std::accumulate(m, m + n, 1e-30);
    for (std::int64_t e = 0; e < n; ++e)
      share[std::size_t(found.labels[std::size_t(t)] * n + e)] += double(m[e]) / all;
  }
  const double largest = *std::max_element(share.begin(), share.end());
  std::vector<std::int64_t> costs, prices(std::size_t(n), 0);
  for (const double s : share) costs.push_back(-std::llround(s / largest * 0x1p30));
  const std::vector<std::int32_t> expert_of =
      balanced_assignment(costs, std::vector<std::int64_t>(std::size_t(n), 1), prices);
  TokenClustering ordered{empty_like(found.weight), empty_like(found.bias), {}};
  for (std::int64_t c = 0; c < n; ++c) {
    const std::int64_t e = expert_of[std::size_t(c)];
    ordered.weight.slice(e, 1).copy_from(found.weight.slice(c, 1));
    ordered.bias.slice(e, 1).copy_from(found.bias.slice(c, 1));
  }
  return ordered;
}

}  // namespace

ModelConfig SplitPlan::config_with(std::int64_t top_k) const {
  ModelConfig c = config;
  c.moe.top_k = top_k;
  for (const auto& [l, layer] : layers) c.moe.score_scale[std::size_t(l)] = layer.scale.at(top_k);
  return c;
}

SplitPlan plan_split(const ModelFolder& dense, const SplitOptions& options, Communicator& world) {
  return Planner(dense, options, world).make();
}

}  // namespace moe
