// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/error.h"
#include "hf/hf_config.h"

namespace moe {
namespace {

std::int64_t first_moe_layer(const ModelConfig& c) {
  std::int64_t l = 0;
  while (!c.is_moe_layer(l)) ++l;
  return l;
}

void require_no_dense_layer(const ModelConfig& c, ModelFormat format) {
  for (std::int64_t l = 0; l < c.layers; ++l)
    MOE_REQUIRE(c.is_moe_layer(l), name(format), " has experts in every layer, but layer ", l,
                " of the model is dense: write native, or llama-moe-v2 if the dense layers are as "
                "many at both ends");
}

void require_llama_moe(const ModelConfig& c) {
  require_no_dense_layer(c, ModelFormat::llama_moe);
  const std::vector<std::int64_t> shared = c.layer_shared_sizes(0);
  for (std::int64_t l = 0; l < c.layers; ++l) {
    MOE_REQUIRE(total_neurons(c.layer_expert_sizes(l)) == total_neurons(c.layer_expert_sizes(0)),
                "llama-moe needs the same number of neurons in every layer, but the experts of "
                "layer ",
                l, " differ from layer 0: write native");
    const std::vector<std::int64_t> here = c.layer_shared_sizes(l);
    MOE_REQUIRE(here.size() == shared.size(),
                "llama-moe needs the same number of shared experts in every layer, but layer ", l,
                " has ", here.size(), " and layer 0 ", shared.size(), ": write native");
    MOE_REQUIRE(total_neurons(here) == total_neurons(shared),
                "llama-moe needs the same number of shared neurons in every layer, but the shared "
                "experts of layer ",
                l, " differ from layer 0: write native");
  }
}

/// What Mixtral and LLaMA-MoE v2 have in common.
void require_mixtral_gate_and_sizes(const ModelConfig& c, ModelFormat format) {
  MOE_REQUIRE(c.moe.gate == GateKind::linear, name(format),
              " has a linear gate, the model an mlp gate: split with --gate linear, or write "
              "llama-moe or native");
  MOE_REQUIRE(!c.moe.gate_noise, name(format),
              " has no place for the weights of the gate noise: leave the noise out, or write "
              "llama-moe or native");
  const std::int64_t size = c.layer_expert_sizes(first_moe_layer(c)).front();
  for (const auto& layer : c.moe.expert_sizes)
    for (const std::int64_t n : layer)
      MOE_REQUIRE(n == size, name(format), " needs experts of one size, the model has ", size,
                  " and ", n, " neurons: write llama-moe or native");
}

void require_llama_moe_v2(const ModelConfig& c) {
  const std::int64_t first = first_moe_layer(c);
  const bool shared = !c.layer_shared_sizes(first).empty();
  MOE_REQUIRE(!shared || !c.moe.shared_gate,
              "llama-moe-v2 adds its shared expert without a gate, the model has one: write "
              "llama-moe or native");
  const double scale = c.moe.score_scale[std::size_t(first)];
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const bool end = l < first || l >= c.layers - first;
    MOE_REQUIRE(c.is_moe_layer(l) != end,
                "llama-moe-v2 leaves equal numbers of layers dense at both ends and no other, but "
                "the model has ",
                first, " at the start and layer ", l, " is ",
                c.is_moe_layer(l) ? "not dense" : "dense", ": write native");
    if (end) continue;
    MOE_REQUIRE(
        total_neurons(c.layer_shared_sizes(l)) == total_neurons(c.layer_shared_sizes(first)),
        "llama-moe-v2 needs the same number of shared neurons in every layer, but layer ", l,
        " differs from layer ", first, ": write native");
    MOE_REQUIRE(c.moe.score_scale[std::size_t(l)] == scale,
                "llama-moe-v2 has one score scale for all layers, the model ", scale, " in layer ",
                first, " and ", c.moe.score_scale[std::size_t(l)], " in layer ", l,
                ": write native, or llama-moe for a scale per layer");
  }
  const std::int64_t width = total_neurons(c.layer_expert_sizes(first));
  MOE_REQUIRE(first == 0 || c.intermediate_size == width,
              "LLaMA-MoE v2's code gives its dense layers as many neurons as all routed experts "
              "have, ",
              width, ", but the model's dense layers have ", c.intermediate_size, ": write native");
}

/// LLaMA-MoE v2 has experts of its attention in every layer, each with one key/value head.
void require_attention_of_v2(const ModelConfig& c) {
  const AttentionMoeConfig& a = c.attention_moe;
  const std::string v2 = "llama-moe-v2's experts in the attention ";
  MOE_REQUIRE(a.kind == AttentionExpert::heads, v2,
              "have keys and values of their own (kind heads), the model routes queries and keeps "
              "keys and values dense: write native");
  MOE_REQUIRE(a.experts % c.kv_heads == 0, v2, "have one key/value head each, the model has ",
              c.kv_heads, " key/value heads in ", a.experts, " experts: write native");
  MOE_REQUIRE(c.heads * c.head_dim == c.hidden_size, v2,
              "need heads times head_dim to be the hidden size, in the model they are ", c.heads,
              " times ", c.head_dim, " and ", c.hidden_size, ": write native");
  MOE_REQUIRE(a.gate == GateKind::linear && !a.gate_noise, v2,
              "have a linear gate without noise: write native");
  MOE_REQUIRE(!a.gate_bias && !a.selection_bias, v2,
              "have no place for a bias of their router: write native");
  MOE_REQUIRE(!a.softmax_over_all && !a.unit_weights, v2,
              "are weighed by the softmax over the chosen ones, the model's by the softmax over "
              "all: write native");
  for (std::int64_t l = 0; l < c.layers; ++l) {
    MOE_REQUIRE(c.is_attention_moe_layer(l), v2, "are in every layer, but the attention of layer ",
                l, " is dense: write native");
    MOE_REQUIRE(a.score_scale[std::size_t(l)] == a.score_scale[0], v2,
                "have one scale for all layers, the model ", a.score_scale[0], " in layer 0 and ",
                a.score_scale[std::size_t(l)], " in layer ", l, ": write native");
  }
}

}  // namespace

void require_representable(const ModelConfig& c, ModelFormat format) {
  if (format == ModelFormat::native) return;
  MOE_REQUIRE(!c.is_attention_moe() || format == ModelFormat::llama_moe_v2, name(format),
              " has no experts in the attention: write native, or llama-moe-v2 for experts of kind "
              "heads in every layer");
  MOE_REQUIRE(!c.is_attention_moe() || c.is_moe(),
              "llama-moe-v2 has experts in the attention only beside those of the feed-forward, "
              "which is dense in the model: write native");
  if (format == ModelFormat::llama) {
    MOE_REQUIRE(!c.is_moe(),
                "a model with experts cannot be written as llama: use llama-moe, mixtral for a "
                "linear gate, or native");
    return;
  }
  MOE_REQUIRE(c.is_moe(), "a dense model cannot be written as ", name(format), ": use llama");
  MOE_REQUIRE(!c.moe.softmax_over_all, name(format),
              " weighs experts by the softmax over the chosen ones, the model by the softmax over "
              "all: write native");
  MOE_REQUIRE(!c.moe.unit_weights, name(format),
              " weighs experts by the softmax over the chosen ones, the model adds them up "
              "(unit_weights): write native");
  MOE_REQUIRE(!c.moe.expert_bias, name(format),
              " has no place for the experts' biases: write native");
  MOE_REQUIRE(!c.moe.gate_bias, name(format), " has no place for the gate's bias: write native");
  MOE_REQUIRE(!c.moe.selection_bias, name(format),
              " has no place for the router's selection bias (router.bias_update_rate), without "
              "which other experts would be chosen: write native");
  if (format == ModelFormat::llama_moe) return require_llama_moe(c);
  require_mixtral_gate_and_sizes(c, format);
  if (format == ModelFormat::llama_moe_v2) {
    if (c.is_attention_moe()) require_attention_of_v2(c);
    return require_llama_moe_v2(c);
  }
  require_no_dense_layer(c, format);
  for (std::int64_t l = 0; l < c.layers; ++l)
    MOE_REQUIRE(c.layer_shared_sizes(l).empty(), "mixtral has no shared experts, but layer ", l,
                " of the model has: write llama-moe, llama-moe-v2 or native");
}

ModelConfig expressed_in(const ModelConfig& config, ModelFormat format) {
  ModelConfig c = config;
  const auto shared = std::find_if(c.moe.shared_sizes.begin(), c.moe.shared_sizes.end(),
                                   [](const auto& layer) { return !layer.empty(); });
  if (!c.is_moe() || c.moe.shared_gate || shared == c.moe.shared_sizes.end()) return c;
  if (format == ModelFormat::llama_moe) {
    c.moe.shared_gate = true;
    c.moe.shared_scale = double(shared->size());
  }
  if (format == ModelFormat::llama_moe_v2)
    for (auto& layer : c.moe.shared_sizes)
      if (!layer.empty()) layer = {total_neurons(layer)};
  return c;
}

}  // namespace moe
