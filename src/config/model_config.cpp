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

std::vector<std::int64_t> ModelConfig::layer_expert_sizes(std::int64_t layer) const {
  if (!is_moe_layer(layer)) return {intermediate_size};
  return moe.expert_sizes[std::size_t(layer)];
}

std::vector<std::int64_t> ModelConfig::layer_shared_sizes(std::int64_t layer) const {
  if (!is_moe() || moe.shared_sizes.empty()) return {};
  return moe.shared_sizes.at(std::size_t(layer));
}

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
  if (!is_moe()) return;
  MOE_REQUIRE(moe.top_k >= 1 && moe.top_k <= moe.experts, "top_k must lie between 1 and experts (",
              moe.experts, "), is ", moe.top_k);
  MOE_REQUIRE(std::int64_t(moe.expert_sizes.size()) == layers, "expert_sizes names ",
              moe.expert_sizes.size(), " layers, the model has ", layers);
  MOE_REQUIRE(std::int64_t(moe.score_scale.size()) == layers, "score_scale names ",
              moe.score_scale.size(), " layers, the model has ", layers);
  MOE_REQUIRE(moe.shared_sizes.empty() || std::int64_t(moe.shared_sizes.size()) == layers,
              "shared_sizes names ", moe.shared_sizes.size(), " layers, the model has ", layers);
  MOE_REQUIRE(!moe.gate_bias || moe.gate == GateKind::linear, "only a linear gate has a bias");
  bool experts_somewhere = false;
  for (std::int64_t l = 0; l < layers; ++l) {
    const auto& sizes = moe.expert_sizes[std::size_t(l)];
    const std::vector<std::int64_t> shared = layer_shared_sizes(l);
    MOE_REQUIRE(!sizes.empty() || shared.empty(), "layer ", l, " has shared experts but no others");
    MOE_REQUIRE(sizes.empty() || std::int64_t(sizes.size()) == moe.experts,
                "expert_sizes of layer ", l, " names ", sizes.size(), " experts, the model has ",
                moe.experts);
    experts_somewhere = experts_somewhere || !sizes.empty();
    for (const std::int64_t n : sizes)
      MOE_REQUIRE(n > 0, "an expert of layer ", l, " has ", n, " neurons");
    for (const std::int64_t n : shared)
      MOE_REQUIRE(n > 0, "a shared expert of layer ", l, " has ", n, " neurons");
  }
  MOE_REQUIRE(experts_somewhere, "no layer has experts");
}

ParameterCounts count_parameters(const ModelConfig& config) {
  ParameterCounts counts;
  double activated = 0;
  for (const ParameterSpec& p : model_parameters(config)) {
    const std::int64_t n =
        std::accumulate(p.shape.begin(), p.shape.end(), std::int64_t{1}, std::multiplies<>());
    counts.total += n;
    if (p.name.ends_with("router.noise.weight")) continue;
    activated += p.placement == Placement::expert
                     ? double(n) * double(config.moe.top_k) / double(config.moe.experts)
                     : double(n);
  }
  counts.activated = std::int64_t(activated + 0.5);
  return counts;
}

}  // namespace moe
