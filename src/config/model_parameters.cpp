// SPDX-License-Identifier: Apache-2.0
#include "config/model_parameters.h"

#include <numeric>
#include <utility>

#include "core/error.h"

namespace moe {

namespace {

class ParameterList {
 public:
  explicit ParameterList(const ModelConfig& c) : c_(c), h_(c.hidden_size) {}

  std::vector<ParameterSpec> all() && {
    matrix("embed.weight", c_.vocab_size);
    for (std::int64_t l = 0; l < c_.layers; ++l) {
      layer_ = str("layers.", l, ".");
      norm(layer_ + "attention_norm.weight");
      c_.is_attention_moe_layer(l) ? attention_experts() : attention();
      norm(layer_ + "ffn_norm.weight");
      c_.is_moe_layer(l) ? experts(l) : ffn();
    }
    norm("norm.weight");
    if (!c_.tie_embeddings) matrix("head.weight", c_.vocab_size);
    return std::move(list_);
  }

 private:
  ParameterSpec& matrix(std::string name, std::int64_t rows, std::int64_t cols) {
    return list_.emplace_back(std::move(name), std::vector{rows, cols});
  }
  ParameterSpec& matrix(std::string name, std::int64_t rows) {
    return matrix(std::move(name), rows, h_);
  }
  ParameterSpec& vector(std::string name, std::int64_t n, Initial initial) {
    ParameterSpec& p = list_.emplace_back(std::move(name), std::vector{n});
    p.initial = initial;
    p.decay = false;
    return p;
  }
  void norm(std::string name) { vector(std::move(name), h_, Initial::ones); }

  void attention() {
    const std::string prefix = layer_ + "attention.";
    matrix(prefix + "q.weight", c_.heads * c_.head_dim);
    keys_and_values(prefix, c_.kv_heads, 1);
    matrix(prefix + "o.weight", h_, c_.heads * c_.head_dim);
  }

  void keys_and_values(const std::string& prefix, std::int64_t heads, double activated) {
    for (const char* part : {"k", "v"})
      matrix(prefix + part + ".weight", heads * c_.head_dim).activated = activated;
  }

  void attention_experts() {
    const AttentionMoeConfig& a = c_.attention_moe;
    const std::string prefix = layer_ + "attention.", experts = prefix + "experts.";
    const double activated = double(a.top_k) / double(a.experts);
    router(prefix + "router.", a);
    matrix(experts + "q.weight", c_.heads * c_.head_dim).activated = activated;
    if (a.kind == AttentionExpert::queries) {
      keys_and_values(prefix, c_.kv_heads, 1);
    } else {
      keys_and_values(experts, a.experts * c_.expert_kv_heads(), activated);
    }
    matrix(experts + "o.weight", c_.heads * c_.head_dim).activated = activated;
  }

  void router(const std::string& prefix, const RouterConfig& r) {
    const std::int64_t e = r.experts;
    if (r.gate == GateKind::linear) {
      matrix(prefix + "weight", e);
      if (r.gate_bias) vector(prefix + "bias", e, Initial::zeros);
    } else {
      matrix(prefix + "hidden.weight", e);
      matrix(prefix + "output.weight", e, e);
    }
    if (r.gate_noise) {
      ParameterSpec& noise = matrix(prefix + "noise.weight", e);
      noise.initial = Initial::zeros;
      noise.activated = 0;
    }
    if (r.unit_weights) vector(prefix + "weight_scale", e, Initial::zeros);
    if (r.selection_bias) vector(prefix + "selection_bias", e, Initial::zeros).trained = false;
  }

  void ffn() {
    for (const char* part : {"gate", "up", "down"})
      matrix(layer_ + "ffn." + part + ".weight", c_.intermediate_size);
  }

  void experts(std::int64_t l) {
    router(layer_ + "router.", c_.moe);
    std::vector<std::int64_t> offsets = {0};
    for (const std::int64_t n : c_.layer_expert_sizes(l)) offsets.push_back(offsets.back() + n);
    for (const char* part : {"gate", "up", "down"}) {
      ParameterSpec& p = matrix(layer_ + "experts." + part + ".weight", offsets.back());
      p.placement = Placement::expert;
      p.expert_offsets = offsets;
      p.activated = double(c_.moe.top_k) / double(c_.moe.experts);
    }
    if (c_.moe.expert_bias) {
      ParameterSpec& bias = matrix(layer_ + "experts.bias", c_.moe.experts);
      bias.initial = Initial::zeros;
      bias.decay = false;
      bias.activated = double(c_.moe.top_k) / double(c_.moe.experts);
    }
    const std::vector<std::int64_t> shared = c_.layer_shared_sizes(l);
    if (shared.empty()) return;
    if (c_.moe.shared_gate) matrix(layer_ + "shared_router.weight", std::int64_t(shared.size()));
    const std::int64_t neurons = std::accumulate(shared.begin(), shared.end(), std::int64_t{0});
    for (const char* part : {"gate", "up", "down"})
      matrix(layer_ + "shared." + part + ".weight", neurons);
  }

  const ModelConfig& c_;
  const std::int64_t h_;
  std::string layer_;  // what the names of the current layer begin with
  std::vector<ParameterSpec> list_;
};

}  // namespace

std::vector<ParameterSpec> model_parameters(const ModelConfig& config) {
  return ParameterList(config).all();
}

}  // namespace moe
