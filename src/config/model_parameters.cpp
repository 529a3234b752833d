// SPDX-License-Identifier: Apache-2.0
#include "config/model_parameters.h"

#include <numeric>

#include "core/error.h"

namespace moe {

std::vector<ParameterSpec> model_parameters(const ModelConfig& c) {
  std::vector<ParameterSpec> list;
  const std::int64_t h = c.hidden_size;
  const auto matrix = [&](std::string name, std::int64_t rows, std::int64_t cols) {
    list.push_back({std::move(name), {rows, cols}});
  };
  const auto norm = [&](std::string name) {
    list.push_back({std::move(name), {h}, Placement::replicated, Initial::ones, false});
  };

  matrix("embed.weight", c.vocab_size, h);
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const std::string layer = str("layers.", l, ".");
    norm(layer + "attention_norm.weight");
    matrix(layer + "attention.q.weight", c.heads * c.head_dim, h);
    matrix(layer + "attention.k.weight", c.kv_heads * c.head_dim, h);
    matrix(layer + "attention.v.weight", c.kv_heads * c.head_dim, h);
    matrix(layer + "attention.o.weight", h, c.heads * c.head_dim);
    norm(layer + "ffn_norm.weight");
    if (!c.is_moe_layer(l)) {
      for (const char* part : {"gate", "up", "down"})
        matrix(layer + "ffn." + part + ".weight", c.intermediate_size, h);
      continue;
    }
    const std::int64_t e = c.moe.experts;
    if (c.moe.gate == GateKind::linear) {
      matrix(layer + "router.weight", e, h);
      if (c.moe.gate_bias)
        list.push_back({layer + "router.bias", {e}, Placement::replicated, Initial::zeros, false});
    } else {
      matrix(layer + "router.hidden.weight", e, h);
      matrix(layer + "router.output.weight", e, e);
    }
    if (c.moe.gate_noise)
      list.push_back(
          {layer + "router.noise.weight", {e, h}, Placement::replicated, Initial::zeros});
    if (c.moe.selection_bias)
      list.push_back({layer + "router.selection_bias",
                      {e},
                      Placement::replicated,
                      Initial::zeros,
                      false,
                      {},
                      false});
    std::vector<std::int64_t> offsets = {0};
    for (const std::int64_t n : c.layer_expert_sizes(l)) offsets.push_back(offsets.back() + n);
    for (const char* part : {"gate", "up", "down"})
      list.push_back({layer + "experts." + part + ".weight",
                      {offsets.back(), h},
                      Placement::expert,
                      Initial::normal,
                      true,
                      offsets});
    const std::vector<std::int64_t> shared = c.layer_shared_sizes(l);
    if (shared.empty()) continue;
    if (c.moe.shared_gate) matrix(layer + "shared_router.weight", std::int64_t(shared.size()), h);
    const std::int64_t neurons = std::accumulate(shared.begin(), shared.end(), std::int64_t{0});
    for (const char* part : {"gate", "up", "down"})
      matrix(layer + "shared." + part + ".weight", neurons, h);
  }
  norm("norm.weight");
  if (!c.tie_embeddings) matrix("head.weight", c.vocab_size, h);
  return list;
}

}  // namespace moe
