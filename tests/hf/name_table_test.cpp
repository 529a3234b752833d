// SPDX-License-Identifier: Apache-2.0
#include "hf/name_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

namespace moe {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;

/// LLaMA-MoE v1's shapes: 7B with 8 or 16 experts.
ModelConfig v1_config(std::int64_t experts) {
  ModelConfig c;
  c.vocab_size = 32000;
  c.hidden_size = 4096;
  c.intermediate_size = 11008;
  c.layers = 32;
  c.heads = c.kv_heads = 32;
  c.head_dim = 128;
  c.moe.experts = experts;
  c.moe.expert_sizes.assign(32, std::vector<std::int64_t>(std::size_t(experts), 11008 / experts));
  c.moe.score_scale.assign(32, 4);
  return c;
}

std::map<std::string, Shape> tensors_of(const ModelConfig& c, ModelFormat format) {
  std::map<std::string, Shape> tensors;
  for (const StoredParameter& p : stored_parameters(c, format))
    for (const StoredPiece& piece : p.pieces)
      EXPECT_TRUE(tensors.emplace(piece.tensor, piece.shape).second) << piece.tensor;
  return tensors;
}

TEST(NameTable, HasTheKeysOfThePublishedLlamaMoeModels) {
  // 1091 and 1859 tensors were published, 32 of them rotary_emb.inv_freq.
  const auto eight = tensors_of(v1_config(8), ModelFormat::llama_moe);
  const auto sixteen = tensors_of(v1_config(16), ModelFormat::llama_moe);
  EXPECT_EQ(eight.size(), 1091u - 32);
  EXPECT_EQ(sixteen.size(), 1859u - 32);
  const std::string layer = "model.layers.31.";
  const auto expect = [&](const std::string& name, const Shape& shape) {
    ASSERT_TRUE(sixteen.contains(name)) << name;
    EXPECT_EQ(sixteen.at(name), shape) << name;
  };
  expect("model.embed_tokens.weight", {32000, 4096});
  for (const char* p : {"q", "k", "v", "o"})
    expect(layer + "self_attn." + p + "_proj.weight", {4096, 4096});
  expect(layer + "input_layernorm.weight", {4096});
  expect(layer + "post_attention_layernorm.weight", {4096});
  expect(layer + "mlp.gate.gate_network.0.weight", {16, 4096});
  expect(layer + "mlp.gate.gate_network.2.weight", {16, 16});
  expect(layer + "mlp.gate.weight_noise.weight", {16, 4096});
  expect(layer + "mlp.calculator.experts.weight_gate.15", {688, 4096});
  expect(layer + "mlp.calculator.experts.weight_up.0", {688, 4096});
  expect(layer + "mlp.calculator.experts.weight_down.7", {4096, 688});
  expect("model.norm.weight", {4096});
  expect("lm_head.weight", {32000, 4096});
}

TEST(NameTable, NamesTheLinearGateAndLeavesOutNoise) {
  ModelConfig c = v1_config(8);
  c.moe.gate = GateKind::linear;
  c.moe.gate_noise = false;
  const auto tensors = tensors_of(c, ModelFormat::llama_moe);
  EXPECT_EQ(tensors.at("model.layers.0.mlp.gate.gate_network.weight"), (Shape{8, 4096}));
  EXPECT_EQ(tensors.size(), 1091u - 32 - 64);

  c.moe.score_scale[3] = 2;
  const auto mixtral = tensors_of(c, ModelFormat::mixtral);
  EXPECT_EQ(mixtral.size(), tensors.size());
  EXPECT_EQ(mixtral.at("model.layers.3.block_sparse_moe.gate.weight"), (Shape{8, 4096}));
  EXPECT_EQ(mixtral.at("model.layers.3.block_sparse_moe.experts.7.w1.weight"), (Shape{1376, 4096}));
  EXPECT_EQ(mixtral.at("model.layers.3.block_sparse_moe.experts.7.w2.weight"), (Shape{4096, 1376}));
  EXPECT_EQ(mixtral.at("model.layers.3.block_sparse_moe.experts.7.w3.weight"), (Shape{1376, 4096}));
  for (const StoredParameter& p : stored_parameters(c, ModelFormat::mixtral))
    for (const StoredPiece& piece : p.pieces) {
      const bool w2 = piece.tensor.ends_with("w2.weight");
      EXPECT_EQ(piece.transposed, w2);
      EXPECT_EQ(piece.scale, !w2                                    ? 1
                             : p.parameter.starts_with("layers.3.") ? 2
                                                                    : 4)
          << piece.tensor;
    }
}

TEST(NameTable, DenseModelIsLlama) {
  ModelConfig c = v1_config(8);
  c.moe = {};
  const auto tensors = tensors_of(c, ModelFormat::llama);
  EXPECT_EQ(tensors.size(), 32u * 9 + 3);
  EXPECT_EQ(tensors.at("model.layers.5.mlp.down_proj.weight"), (Shape{4096, 11008}));
  c.tie_embeddings = true;
  EXPECT_FALSE(tensors_of(c, ModelFormat::llama).contains("lm_head.weight"));
}

TEST(NameTable, PiecesCoverUnevenExpertsInOrder) {
  ModelConfig c = v1_config(8);
  c.layers = 1;
  c.moe.experts = 3;
  c.moe.expert_sizes = {{5, 1, 2}};
  c.moe.score_scale = {1};
  for (const StoredParameter& p : stored_parameters(c, ModelFormat::llama_moe)) {
    std::int64_t next = 0;
    std::vector<std::int64_t> sizes;
    for (const StoredPiece& piece : p.pieces) {
      EXPECT_EQ(piece.first_row, next);
      next += piece.rows;
      sizes.push_back(piece.rows);
    }
    EXPECT_EQ(next, p.rows) << p.parameter;
    if (p.parameter.find("experts") != std::string::npos) {
      EXPECT_THAT(sizes, ElementsAre(5, 1, 2));
    }
  }
}

TEST(NameTable, RefusesWhatAFormatHasNoNameFor) {
  EXPECT_THROW(stored_parameters(v1_config(8), ModelFormat::mixtral), Error);  // mlp gate
}

}  // namespace
}  // namespace moe
