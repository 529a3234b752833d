// SPDX-License-Identifier: Apache-2.0
#include "config/model_config.h"

#include <gtest/gtest.h>

#include "config/model_json.h"
#include "config/model_parameters.h"
#include "core/error.h"

namespace moe {
namespace {

ModelConfig llama_moe_7b(std::int64_t experts, std::int64_t k) {
  ModelConfig c;
  c.vocab_size = 32000;
  c.hidden_size = 4096;
  c.intermediate_size = 11008;
  c.layers = 32;
  c.heads = c.kv_heads = 32;
  c.head_dim = 128;
  c.moe.experts = experts;
  c.moe.top_k = k;
  c.moe.expert_sizes.assign(32, std::vector<std::int64_t>(std::size_t(experts), 11008 / experts));
  c.moe.score_scale.assign(32, double(experts) / double(k));
  return c;
}

TEST(ModelConfig, CountsThePublishedLlamaMoeModels) {
  EXPECT_EQ(count_parameters(llama_moe_7b(8, 2)).total, 6'740'514'816);
  EXPECT_EQ(count_parameters(llama_moe_7b(16, 4)).total, 6'742'618'112);
  EXPECT_NEAR(double(count_parameters(llama_moe_7b(8, 2)).activated), 3.493e9, 5e5);
  EXPECT_NEAR(double(count_parameters(llama_moe_7b(16, 4)).activated), 3.494e9, 5e5);
  EXPECT_NEAR(double(count_parameters(llama_moe_7b(16, 2)).activated), 2.953e9, 5e5);
}

TEST(ModelConfig, RejectsATopKAboveTheNumberOfExperts) {
  ModelConfig c = llama_moe_7b(8, 2);
  c.validate();
  c.moe.top_k = 9;
  EXPECT_THROW(c.validate(), InputError);
}

TEST(ModelParameters, OffsetsOfUnevenExpertsAddUp) {
  ModelConfig c = llama_moe_7b(2, 1);
  c.moe.expert_sizes.assign(32, {11000, 8});
  for (const ParameterSpec& p : model_parameters(c)) {
    if (p.placement != Placement::expert) continue;
    EXPECT_EQ(p.expert_offsets, (std::vector<std::int64_t>{0, 11000, 11008}));
  }
}

ModelConfig llama_3_8b() {
  ModelConfig c;
  c.vocab_size = 128256;
  c.hidden_size = 4096;
  c.intermediate_size = 14336;
  c.layers = 32;
  c.heads = 32;
  c.kv_heads = 8;
  c.head_dim = 128;
  return c;
}

/// LLaMA-MoE v2's splits of it: `routed` experts of 1792 neurons and `shared` ones.
ModelConfig v2(std::int64_t routed, std::int64_t shared, std::int64_t k) {
  ModelConfig c = llama_3_8b();
  c.moe.experts = routed;
  c.moe.top_k = k;
  c.moe.gate = GateKind::linear;
  c.moe.gate_noise = false;
  c.moe.expert_sizes.assign(32, std::vector<std::int64_t>(std::size_t(routed), 1792));
  if (shared > 0) c.moe.shared_sizes.assign(32, {shared * 1792});
  c.moe.score_scale.assign(32, 1);
  return c;
}

ModelConfig with_attention(ModelConfig c, AttentionExpert kind, std::int64_t experts,
                           std::int64_t k) {
  c.attention_moe.kind = kind;
  c.attention_moe.experts = experts;
  c.attention_moe.top_k = k;
  c.attention_moe.layers.assign(std::size_t(c.layers), true);
  c.attention_moe.score_scale.assign(std::size_t(c.layers), 1);
  return c;
}

TEST(ModelConfig, CountsLlamaMoeV2sVariantsOfLlama38B) {
  using enum AttentionExpert;
  const std::int64_t dense = count_parameters(llama_3_8b()).total, gate = 32 * 8 * 4096;
  EXPECT_EQ(dense, 8'030'261'248);
  EXPECT_EQ(count_parameters(v2(8, 0, 2)).total, dense + gate);
  EXPECT_EQ(count_parameters(v2(7, 1, 1)).total, dense + gate * 7 / 8);
  const ModelConfig both = with_attention(v2(8, 0, 2), heads, 8, 2);
  EXPECT_EQ(count_parameters(both).total, dense + 2 * gate);
  const auto billions = [](const ModelConfig& c) {
    return double(count_parameters(c).activated) / 1e9;
  };
  EXPECT_NEAR(billions(v2(8, 0, 2)), 3.80, 0.005);
  EXPECT_NEAR(billions(v2(7, 1, 1)), 3.80, 0.005);
  EXPECT_NEAR(billions(with_attention(llama_3_8b(), heads, 8, 7)), 7.86, 0.005);
  EXPECT_NEAR(billions(with_attention(v2(8, 0, 2), heads, 8, 7)), 3.637, 0.0005);
  EXPECT_NEAR(billions(both), 2.80, 0.005);
  // Finer experts copy keys and values; routed queries leave them dense.
  const std::int64_t keys_and_values = 32 * 2 * 1024 * 4096;
  EXPECT_EQ(count_parameters(with_attention(llama_3_8b(), heads, 32, 8)).total,
            dense + 4 * gate + 3 * keys_and_values);
  const ParameterCounts routed = count_parameters(with_attention(llama_3_8b(), queries, 4, 2));
  EXPECT_EQ(routed.total, dense + gate / 2);
  EXPECT_EQ(routed.total - routed.activated, 32 * 4096 * 4096);
}

std::string fault(const ModelConfig& c) {
  try {
    c.validate();
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

TEST(ModelConfig, SaysWhyExpertsOfTheAttentionCannotBe) {
  using enum AttentionExpert;
  const ModelConfig c = llama_3_8b();
  for (const std::int64_t e : {1, 2, 4, 8, 16, 32})
    EXPECT_EQ(fault(with_attention(c, heads, e, 1)), "") << e;
  for (const std::int64_t e : {1, 2, 4})
    EXPECT_EQ(fault(with_attention(c, queries, e, 1)), "") << e;
  EXPECT_EQ(fault(with_attention(c, queries, 8, 2)),
            "attention_moe: 8 experts of queries cannot share the 4 query heads of each key/value "
            "head evenly, as each expert serves all 8 key/value heads: choose a divisor of 4");
  EXPECT_EQ(fault(with_attention(c, heads, 12, 2)),
            "attention_moe: 12 experts of heads cannot share 8 key/value heads with 4 query heads "
            "each evenly: choose a divisor of 8, or a multiple of it that divides 32");
  EXPECT_NE(fault(with_attention(c, heads, 64, 2)), "");
  EXPECT_EQ(fault(with_attention(c, heads, 8, 9)),
            "attention_moe.top_k must lie between 1 and experts (8), is 9");
  ModelConfig nowhere = with_attention(c, heads, 8, 2);
  nowhere.attention_moe.layers.assign(32, false);
  EXPECT_EQ(fault(nowhere), "attention_moe: no layer has experts in its attention");
  ModelConfig llama2 = c;
  llama2.kv_heads = 32;
  EXPECT_NE(fault(with_attention(llama2, queries, 2, 1)).find("experts of kind heads"),
            std::string::npos);
}

TEST(ModelConfig, EdgeLayersMayKeepTheirDenseAttention) {
  ModelConfig c = with_attention(llama_3_8b(), AttentionExpert::heads, 8, 2);
  c.attention_moe.layers.front() = c.attention_moe.layers.back() = false;
  c.attention_moe.softmax_over_all = true;
  c.attention_moe.score_scale[3] = 2.5;
  c.moe.unit_weights = c.moe.expert_bias = true;
  const ModelConfig again = model_config_from_json(model_config_to_json(c), "test");
  EXPECT_EQ(again.attention_moe.layers, c.attention_moe.layers);
  EXPECT_EQ(again.attention_moe.score_scale, c.attention_moe.score_scale);
  EXPECT_EQ(again.attention_moe.kind, AttentionExpert::heads);
  EXPECT_TRUE(again.attention_moe.softmax_over_all);
  EXPECT_FALSE(again.attention_moe.unit_weights);
  EXPECT_TRUE(again.moe.unit_weights && again.moe.expert_bias);
  EXPECT_EQ(model_config_to_json(again), model_config_to_json(c));
  std::vector<std::string> names;
  for (const ParameterSpec& p : model_parameters(again))
    if (p.name.find(".attention.") != std::string::npos &&
        (p.name.starts_with("layers.0.") || p.name.starts_with("layers.1.")))
      names.push_back(p.name);
  EXPECT_EQ(names, (std::vector<std::string>{
                       "layers.0.attention.q.weight", "layers.0.attention.k.weight",
                       "layers.0.attention.v.weight", "layers.0.attention.o.weight",
                       "layers.1.attention.router.weight", "layers.1.attention.experts.q.weight",
                       "layers.1.attention.experts.k.weight", "layers.1.attention.experts.v.weight",
                       "layers.1.attention.experts.o.weight"}));
}

}  // namespace
}  // namespace moe
