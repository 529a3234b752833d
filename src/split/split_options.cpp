// SPDX-License-Identifier: Apache-2.0
#include "split/split_options.h"

#include <cmath>

#include "core/error.h"
#include "hf/hf_config.h"

namespace moe {
namespace {

bool needs_inputs(GateInit gate) {
  return gate != GateInit::mlp && gate != GateInit::linear && gate != GateInit::zeros;
}

/// The experts of the feed-forward, with scales of 1.
void add_feed_forward(const SplitOptions& o, GateInit gate, const std::vector<ExpertSizes>& sizes,
                      ModelConfig* config) {
  MoeConfig& m = config->moe;
  m.experts = o.experts;
  m.top_k = o.top_k;
  for (const ExpertSizes& layer : sizes) {
    m.expert_sizes.push_back(layer.routed);
    if (o.shared > 0) m.shared_sizes.push_back(layer.shared);
  }
  m.gate = gate_kind(gate);
  const bool native = o.format == ModelFormat::native;
  m.gate_bias = (gate == GateInit::centers && o.gate_metric == TokenMetric::l2) ||
                (gate == GateInit::logistic && native && o.weights != SplitWeights::flat);
  m.unit_weights = o.weights == SplitWeights::unit;
  m.expert_bias = o.refit == SplitRefit::down_and_bias;
  const bool random = gate == GateInit::mlp || gate == GateInit::linear;
  m.gate_noise = o.gate_noise.value_or(o.format == ModelFormat::llama_moe && random);
  m.softmax_over_all = o.softmax_over_all.value_or(o.weights == SplitWeights::softmax && native &&
                                                   o.top_k == 1 && o.experts > 1);
  m.score_scale.assign(sizes.size(), 1);
}

/// Nothing may be asked of experts that are not made.
void check_dense_feed_forward(const SplitOptions& o) {
  MOE_REQUIRE(o.attention.kind,
              "the number of experts must be positive, is 0: only with experts in the attention "
              "(--attention) may the feed-forward stay dense");
  MOE_REQUIRE(o.shared == 0 && !o.expert_size && !o.indices && !o.gate && !o.align &&
                  o.dense_layers.empty(),
              "with 0 experts the feed-forward stays dense: there is nothing for shared experts, "
              "their sizes, indices, a gate, alignment or dense layers to say");
}

}  // namespace

const char* name(SplitWeights weights) {
  switch (weights) {
    case SplitWeights::softmax:
      return "softmax";
    case SplitWeights::unit:
      return "unit";
    case SplitWeights::flat:
      return "flat";
  }
  return "?";
}

const char* name(SplitRefit refit) {
  switch (refit) {
    case SplitRefit::none:
      return "none";
    case SplitRefit::down:
      return "down";
    case SplitRefit::down_and_bias:
      return "down+bias";
  }
  return "?";
}

SplitWeights split_weights_named(std::string_view text) {
  for (const SplitWeights w : {SplitWeights::softmax, SplitWeights::unit, SplitWeights::flat})
    if (text == name(w)) return w;
  throw InputError(str("unknown weights '", text, "': use softmax, unit or flat"));
}

SplitRefit split_refit_named(std::string_view text) {
  for (const SplitRefit r : {SplitRefit::none, SplitRefit::down, SplitRefit::down_and_bias})
    if (text == name(r)) return r;
  throw InputError(str("unknown refit '", text, "': use none, down or down+bias"));
}

std::optional<SplitOptions> fit_to_format(SplitOptions& options) {
  if (options.format == ModelFormat::native ||
      (options.weights != SplitWeights::unit && options.refit != SplitRefit::down_and_bias))
    return std::nullopt;
  SplitOptions wanted = options;
  wanted.format = ModelFormat::native;
  if (options.weights == SplitWeights::unit) options.weights = SplitWeights::flat;
  if (options.refit == SplitRefit::down_and_bias) options.refit = SplitRefit::down;
  return wanted;
}

ExpertSizes expert_sizes_for(const SplitOptions& o, const Construction& construction,
                             std::int64_t neurons) {
  const std::int64_t all = o.experts + o.shared;
  std::vector<std::int64_t> sizes;
  if (o.expert_size) {
    const std::int64_t size = *o.expert_size;
    MOE_REQUIRE(size >= 1 && size <= neurons, "an expert of ", size, " neurons, the FFN has ",
                neurons);
    sizes.assign(std::size_t(all), size);
    if (construction.coverage() == Coverage::exact && size * all != neurons) {
      MOE_REQUIRE(o.uneven, all, " experts of ", size, " neurons are ", size * all,
                  ", the FFN has ", neurons,
                  ": choose other numbers, or --uneven to let the last expert differ");
      MOE_REQUIRE(size * (all - 1) < neurons, all - 1, " experts of ", size,
                  " neurons leave none of ", neurons, " for the last one");
      sizes.back() = neurons - size * (all - 1);
    }
  } else {
    sizes = construction.sizes(neurons, all);
  }
  const auto shared_end = sizes.begin() + o.shared;
  return {{shared_end, sizes.end()}, {sizes.begin(), shared_end}};
}

void check_split_options(const SplitOptions& o, const ModelFolder& dense,
                         const Construction& construction, GateInit gate) {
  const ModelConfig& c = dense.config();
  const std::string input = o.input.string();
  MOE_REQUIRE(!c.is_moe(), input, " already holds a mixture of ", c.moe.experts,
              " experts: a dense model is needed");
  MOE_REQUIRE(!c.is_attention_moe(), input, " already holds an attention of ",
              c.attention_moe.experts, " experts: a dense model is needed");
  std::error_code ignored;
  MOE_REQUIRE(!std::filesystem::equivalent(o.input, o.output, ignored),
              "input and output are the same folder: ", input);
  MOE_REQUIRE(o.dry_run || o.force || !std::filesystem::exists(o.output), o.output.string(),
              " exists already: choose another output or replace it with --force");
  check_attention_split(o.attention, c, !o.calibration.shards.empty());
  if (o.experts == 0) return check_dense_feed_forward(o);
  MOE_REQUIRE(o.experts >= 1, "the number of experts must be positive, is ", o.experts);
  MOE_REQUIRE(o.shared >= 0, "the number of shared experts must not be negative, is ", o.shared);
  MOE_REQUIRE(o.experts + o.shared <= c.intermediate_size, "cannot make ", o.experts + o.shared,
              " experts of the ", c.intermediate_size, " FFN neurons of ", input);
  MOE_REQUIRE(o.top_k >= 1 && o.top_k <= o.experts, "top-k must lie between 1 and the number of ",
              "experts (", o.experts, "), is ", o.top_k);
  MOE_REQUIRE(o.shared == 0 || o.indices || construction.shares(), "the method ", o.method,
              " makes no shared experts without calibration text, by which those with the most "
              "energy would be shared: give --calibration, use residual or sharing-inter, or "
              "--shared 0");
  MOE_REQUIRE(o.scale.rule != SplitScale::Rule::number ||
                  (std::isfinite(o.scale.value) && o.scale.value > 0),
              "the scale must be a positive number, is ", o.scale.value);
  for (const std::int64_t l : o.dense_layers)
    MOE_REQUIRE(l >= 0 && l < c.layers, "layer ", l, " cannot be left dense: the model has ",
                c.layers, " layers, counted from 0");
  MOE_REQUIRE(o.format != ModelFormat::llama,
              "a llama folder holds no experts: use the format llama-moe, mixtral or native");
  const bool calibrated = !o.calibration.shards.empty();
  MOE_REQUIRE(calibrated || construction.need() == CalibrationNeed::nothing, "the method ",
              o.method, " needs calibration text: give token shards with --calibration");
  MOE_REQUIRE(calibrated || !needs_inputs(gate), "the gate ", name(gate),
              " needs calibration text: give token shards with --calibration");
  MOE_REQUIRE(calibrated || (o.scale.rule != SplitScale::Rule::least_squares && !o.align),
              o.align ? "alignment" : "a least-squares scale",
              " needs calibration text: give token shards with --calibration");
  MOE_REQUIRE(std::isfinite(o.gate_temperature) && o.gate_temperature > 0,
              "the gate's temperature must be a positive number, is ", o.gate_temperature);
  MOE_REQUIRE(o.gate_temperature == 1 ||
                  (gate == GateInit::centers && o.gate_metric == TokenMetric::cosine),
              "a temperature belongs to the gate centers by cosine");
  MOE_REQUIRE(o.weights == SplitWeights::softmax || (o.scale.rule == SplitScale::Rule::natural &&
                                                     !o.softmax_over_all.value_or(false)),
              name(o.weights),
              " weights have a scale of their own: leave --scale and "
              "--softmax-over-all out");
  MOE_REQUIRE(calibrated || o.refit == SplitRefit::none,
              "a refit needs calibration text: give token shards with --calibration");
  MOE_REQUIRE(o.refit == SplitRefit::none || !o.align,
              "a refit brings the channels to their size: leave --align out");
  MOE_REQUIRE(o.refit == SplitRefit::none || !o.refit_ridges.empty(), "a refit needs a ridge");
  for (const double ridge : o.refit_ridges)
    MOE_REQUIRE(std::isfinite(ridge) && ridge > 0, "a ridge must be a positive number, is ", ridge);
  MOE_REQUIRE(gate != GateInit::representative || o.method == "cmoe",
              "the gate representative belongs to the method cmoe");
  MOE_REQUIRE(gate != GateInit::representative || o.dry_run,
              "the gate representative is no linear map, so no format holds it: compare it with "
              "moe-split arms or --dry-run");
  MOE_REQUIRE(gate == GateInit::centers || !o.gate_balanced,
              "balanced clusters belong to the gate centers, not to ", name(gate));
}

ModelConfig mixture_config(const SplitOptions& o, const ModelConfig& dense, GateInit gate,
                           const std::vector<ExpertSizes>& sizes) {
  ModelConfig config = dense;
  if (o.experts > 0) add_feed_forward(o, gate, sizes, &config);
  if (o.attention.kind)
    config.attention_moe = attention_config(o.attention, dense, o.format == ModelFormat::native);
  config.validate();
  require_representable(config, o.format);
  return config;
}

}  // namespace moe
