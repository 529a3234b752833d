// SPDX-License-Identifier: Apache-2.0
#include "config/model_config.h"

#include <algorithm>
#include <numeric>

#include "config/model_parameters.h"
#include "core/error.h"

namespace moe {

bool ModelConfig::is_moe_layer(std::int64_t layer) const {
  return is_moe() && !moe.expert_sizes.at(std::size_t(layer)).empty();
}

bool ModelConfig::is_attention_moe_layer(std::int64_t layer) const {
  return is_attention_moe() && attention_moe.layers.at(std::size_t(layer));
}

std::int64_t ModelConfig::expert_kv_heads() const {
  if (attention_moe.kind == AttentionExpert::queries) return kv_heads;
  return std::max<std::int64_t>(1, kv_heads / attention_moe.experts);
}

std::vector<std::int64_t> ModelConfig::layer_expert_sizes(std::int64_t layer) const {
  if (!is_moe_layer(layer)) return {intermediate_size};
  return moe.expert_sizes[std::size_t(layer)];
}

std::vector<std::int64_t> ModelConfig::layer_shared_sizes(std::int64_t layer) const {
  if (!is_moe() || moe.shared_sizes.empty()) return {};
  return moe.shared_sizes.at(std::size_t(layer));
}

namespace {

/// What every router must be; `what` begins the names of its fields.
void validate_router(const RouterConfig& router, std::int64_t layers, const std::string& what) {
  MOE_REQUIRE(router.top_k >= 1 && router.top_k <= router.experts, what,
              "top_k must lie between 1 and experts (", router.experts, "), is ", router.top_k);
  MOE_REQUIRE(std::int64_t(router.score_scale.size()) == layers, what, "score_scale names ",
              router.score_scale.size(), " layers, the model has ", layers);
  MOE_REQUIRE(!router.gate_bias || router.gate == GateKind::linear, what,
              "only a linear gate has a bias");
  MOE_REQUIRE(!router.unit_weights || !router.softmax_over_all, what,
              "unit_weights and softmax_over_all are two forms of weights: choose one");
}

void validate_experts(const ModelConfig& c) {
  validate_router(c.moe, c.layers, "");
  MOE_REQUIRE(std::int64_t(c.moe.expert_sizes.size()) == c.layers, "expert_sizes names ",
              c.moe.expert_sizes.size(), " layers, the model has ", c.layers);
  MOE_REQUIRE(c.moe.shared_sizes.empty() || std::int64_t(c.moe.shared_sizes.size()) == c.layers,
              "shared_sizes names ", c.moe.shared_sizes.size(), " layers, the model has ",
              c.layers);
  bool experts_somewhere = false;
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const auto& sizes = c.moe.expert_sizes[std::size_t(l)];
    const std::vector<std::int64_t> shared = c.layer_shared_sizes(l);
    MOE_REQUIRE(!sizes.empty() || shared.empty(), "layer ", l, " has shared experts but no others");
    MOE_REQUIRE(sizes.empty() || std::int64_t(sizes.size()) == c.moe.experts,
                "expert_sizes of layer ", l, " names ", sizes.size(), " experts, the model has ",
                c.moe.experts);
    experts_somewhere = experts_somewhere || !sizes.empty();
    for (const std::int64_t n : sizes)
      MOE_REQUIRE(n > 0, "an expert of layer ", l, " has ", n, " neurons");
    for (const std::int64_t n : shared)
      MOE_REQUIRE(n > 0, "a shared expert of layer ", l, " has ", n, " neurons");
  }
  MOE_REQUIRE(experts_somewhere, "no layer has experts");
}

void validate_attention_experts(const ModelConfig& c) {
  const AttentionMoeConfig& a = c.attention_moe;
  validate_router(a, c.layers, "attention_moe.");
  MOE_REQUIRE(std::int64_t(a.layers.size()) == c.layers, "attention_moe.layers names ",
              a.layers.size(), " layers, the model has ", c.layers);
  MOE_REQUIRE(std::find(a.layers.begin(), a.layers.end(), true) != a.layers.end(),
              "attention_moe: no layer has experts in its attention");
  const std::int64_t group = c.heads / c.kv_heads;
  if (a.kind == AttentionExpert::queries) {
    MOE_REQUIRE(group % a.experts == 0, "attention_moe: ", a.experts,
                " experts of queries cannot share the ", group,
                " query heads of each key/value head evenly, as each expert serves all ",
                c.kv_heads, " key/value heads: choose a divisor of ", group,
                group == 1 ? ", or experts of kind heads" : "");
    return;
  }
  MOE_REQUIRE(a.experts <= c.heads && c.heads % a.experts == 0 &&
                  (a.experts % c.kv_heads == 0 || c.kv_heads % a.experts == 0),
              "attention_moe: ", a.experts, " experts of heads cannot share ", c.kv_heads,
              " key/value heads with ", group, " query heads each evenly: choose a divisor of ",
              c.kv_heads, ", or a multiple of it that divides ", c.heads);
}

}  // namespace

void ModelConfig::validate() const {
  const auto positive = [](const char* field, auto value) {
    MOE_REQUIRE(value > 0, "model.", field, " must be positive, is ", value);
  };
  positive("vocab_size", vocab_size);
  positive("hidden_size", hidden_size);
  positive("intermediate_size", intermediate_size);
  positive("layers", layers);
  positive("heads", heads);
  positive("kv_heads", kv_heads);
  positive("head_dim", head_dim);
  positive("rms_norm_eps", rms_norm_eps);
  positive("rope_theta", rope_theta);
  MOE_REQUIRE(heads % kv_heads == 0, "model.heads (", heads, ") must be a multiple of kv_heads (",
              kv_heads, ")");
  MOE_REQUIRE(head_dim % 2 == 0, "model.head_dim must be even for rotary positions, is ", head_dim);
  if (is_moe()) validate_experts(*this);
  if (is_attention_moe()) validate_attention_experts(*this);
}

ParameterCounts count_parameters(const ModelConfig& config) {
  ParameterCounts counts;
  double activated = 0;
  for (const ParameterSpec& p : model_parameters(config)) {
    const std::int64_t n =
        std::accumulate(p.shape.begin(), p.shape.end(), std::int64_t{1}, std::multiplies<>());
    counts.total += n;
    activated += double(n) * p.activated;
  }
  counts.activated = std::int64_t(activated + 0.5);
  return counts;
}

}  // namespace moe
