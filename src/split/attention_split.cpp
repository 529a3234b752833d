// SPDX-License-Identifier: Apache-2.0
#include "split/attention_split.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "hf/attention_heads.h"
#include "split/gate_training.h"
#include "split/layer_quality.h"
#include "split/token_clusters.h"

namespace moe {
namespace {

std::int64_t experts_of(const AttentionSplitOptions& o, const ModelConfig& dense) {
  const bool heads = *o.kind == AttentionExpert::heads;
  return o.experts.value_or(heads ? dense.kv_heads : dense.heads / dense.kv_heads);
}

std::int64_t top_k_of(const AttentionSplitOptions& o, const ModelConfig& dense) {
  return o.top_k.value_or(std::max<std::int64_t>(1, experts_of(o, dense) / 2));
}

}  // namespace

AttentionExpert attention_expert_named(std::string_view text) {
  for (const AttentionExpert kind : {AttentionExpert::queries, AttentionExpert::heads})
    if (text == name(kind)) return kind;
  throw InputError(str("unknown experts of the attention '", text, "': use queries or heads"));
}

const char* name(AttentionExpert kind) {
  return kind == AttentionExpert::queries ? "queries" : "heads";
}

GateInit attention_gate_named(std::string_view text) {
  for (const GateInit gate : {GateInit::linear, GateInit::zeros, GateInit::centers})
    if (text == attention_gate_name(gate)) return gate;
  throw InputError(str("unknown gate of the attention '", text, "': use random, zeros or centers"));
}

const char* attention_gate_name(GateInit gate) {
  return gate == GateInit::linear ? "random" : name(gate);
}

void check_attention_split(const AttentionSplitOptions& o, const ModelConfig& dense,
                           bool calibrated) {
  if (!o.kind) {
    MOE_REQUIRE(!o.experts && !o.top_k && o.dense_layers.empty() && !o.softmax_over_all,
                "there are no experts of the attention without their kind: add --attention queries "
                "or --attention heads");
    return;
  }
  const std::int64_t experts = experts_of(o, dense);
  MOE_REQUIRE(experts >= 1, "the number of the attention's experts must be positive, is ", experts);
  MOE_REQUIRE(o.scale.rule != SplitScale::Rule::least_squares,
              "the attention's scale is a number, natural or variance: there is no least-squares "
              "one");
  MOE_REQUIRE(o.scale.rule != SplitScale::Rule::number ||
                  (std::isfinite(o.scale.value) && o.scale.value > 0),
              "the attention's scale must be a positive number, is ", o.scale.value);
  MOE_REQUIRE(calibrated || o.gate != GateInit::centers,
              "the attention's gate centers needs calibration text: give token shards with "
              "--calibration");
  for (const std::int64_t l : o.dense_layers)
    MOE_REQUIRE(l >= 0 && l < dense.layers, "the attention of layer ", l,
                " cannot be left dense: the model has ", dense.layers, " layers, counted from 0");
}

AttentionMoeConfig attention_config(const AttentionSplitOptions& o, const ModelConfig& dense,
                                    bool native) {
  AttentionMoeConfig a;
  a.kind = *o.kind;
  a.experts = experts_of(o, dense);
  a.top_k = top_k_of(o, dense);
  a.softmax_over_all = o.softmax_over_all.value_or(native && a.top_k == 1 && a.experts > 1);
  a.layers.assign(std::size_t(dense.layers), true);
  for (const std::int64_t l : o.dense_layers) a.layers[std::size_t(l)] = false;
  const double natural = double(a.experts) / double(a.top_k);
  a.score_scale.assign(std::size_t(dense.layers), scale_without_text(o.scale, natural, a.experts,
                                                                     a.top_k, a.softmax_over_all));
  return a;
}

AttentionLayerPlan plan_attention_layer(const AttentionSplitOptions& o, const ModelConfig& config,
                                        std::int64_t layer, const Tensor& inputs,
                                        std::uint64_t seed) {
  const AttentionMoeConfig& a = config.attention_moe;
  AttentionLayerPlan plan;
  if (o.gate == GateInit::centers) {
    // The feed-forward's clusters take the streams 0 to layers.
    const TokenClustering found = cluster_tokens(inputs, a.experts, TokenMetric::cosine, false,
                                                 seed, std::uint64_t(config.layers + 1 + layer));
    plan.gate_agreement = routing_agreement(inputs, found);
    plan.gate = found.weight.clone();
  }
  GateWeights gate;
  gate.weight = plan.gate.defined()
                    ? plan.gate
                    : gate_weights(config, o.gate, seed)(
                          str("layers.", layer, ".attention.router.weight"), 0, a.experts);
  const TokenRouting routing = route(gate_logits(gate, inputs), a.top_k, a);
  plan.load.assign(std::size_t(a.experts), 0);
  const auto* chosen = routing.experts.data<std::int32_t>();
  for (std::int64_t i = 0; i < routing.experts.size(); ++i) ++plan.load[std::size_t(chosen[i])];
  return plan;
}

Tensor AttentionExpertSource::rows(const std::string& name, std::int64_t first,
                                   std::int64_t count) {
  const auto matrix = expert_attention_matrix(name);
  if (!matrix) return {};
  if (name != held_name_) {
    held_name_ = {};
    const Tensor dense =
        dense_.read(str("layers.", matrix->layer, ".attention.", matrix->part, ".weight"), dtype_);
    const bool keys = matrix->part == "k" || matrix->part == "v";
    held_ = gather_blocks(matrix->part == "o" ? transposed(dense) : dense,
                          keys ? expert_key_heads(config_) : expert_query_heads(config_),
                          config_.head_dim);
    held_name_ = name;
  }
  return held_.slice(first, count);
}

}  // namespace moe
