// SPDX-License-Identifier: Apache-2.0
#include "hf/name_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <numeric>
#include <string>

#include "hf/hf_config.h"

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
  const std::size_t computed = computed_tensors(v1_config(8), ModelFormat::llama_moe).size();
  EXPECT_EQ(computed, 32u);
  EXPECT_EQ(eight.size() + computed, 1091u);
  EXPECT_EQ(sixteen.size() + computed, 1859u);
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

/// What a layer of every LLaMA has besides its FFN, and what a model has besides its layers.
std::map<std::string, Shape> common_tensors(const ModelConfig& c) {
  const std::int64_t h = c.hidden_size, q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  std::map<std::string, Shape> tensors = {{"model.embed_tokens.weight", {c.vocab_size, h}},
                                          {"model.norm.weight", {h}},
                                          {"lm_head.weight", {c.vocab_size, h}}};
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const std::string layer = str("model.layers.", l, ".");
    tensors[layer + "input_layernorm.weight"] = {h};
    tensors[layer + "post_attention_layernorm.weight"] = {h};
    tensors[layer + "self_attn.q_proj.weight"] = {q, h};
    tensors[layer + "self_attn.k_proj.weight"] = {kv, h};
    tensors[layer + "self_attn.v_proj.weight"] = {kv, h};
    tensors[layer + "self_attn.o_proj.weight"] = {h, q};
  }
  return tensors;
}

std::int64_t elements(const std::map<std::string, Shape>& tensors) {
  std::int64_t n = 0;
  for (const auto& [name, shape] : tensors)
    n += std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  return n;
}

struct Published {
  std::int64_t experts, top_k, tensors, parameters;
  double activated;
};

TEST(NameTable, KeySetsAndParametersOfTheThreeModelsOfVersionOne) {
  for (const Published& p : {Published{8, 2, 1091, 6'740'514'816, 3.493e9},
                             Published{16, 4, 1859, 6'742'618'112, 3.494e9},
                             Published{16, 2, 1859, 6'742'618'112, 2.953e9}}) {
    ModelConfig c = v1_config(p.experts);
    c.moe.top_k = p.top_k;
    std::map<std::string, Shape> expected = common_tensors(c);
    for (std::int64_t l = 0; l < 32; ++l) {
      const std::string mlp = str("model.layers.", l, ".mlp.");
      expected[mlp + "gate.gate_network.0.weight"] = {p.experts, 4096};
      expected[mlp + "gate.gate_network.2.weight"] = {p.experts, p.experts};
      expected[mlp + "gate.weight_noise.weight"] = {p.experts, 4096};
      for (std::int64_t e = 0; e < p.experts; ++e) {
        const std::string experts = mlp + "calculator.experts.weight_";
        expected[str(experts, "gate.", e)] = {11008 / p.experts, 4096};
        expected[str(experts, "up.", e)] = {11008 / p.experts, 4096};
        expected[str(experts, "down.", e)] = {4096, 11008 / p.experts};
      }
    }
    EXPECT_EQ(tensors_of(c, ModelFormat::llama_moe), expected);
    EXPECT_EQ(std::int64_t(expected.size() + computed_tensors(c, ModelFormat::llama_moe).size()),
              p.tensors);
    EXPECT_EQ(elements(expected), p.parameters);
    EXPECT_EQ(count_parameters(c).total, p.parameters);
    EXPECT_NEAR(double(count_parameters(c).activated), p.activated, 1e6);
  }
}

/// LLaMA-3-8B split by LLaMA-MoE v2: `experts` of 1792 neurons, perhaps one of them shared.
ModelConfig v2_config(std::int64_t experts, std::int64_t top_k, bool shared) {
  ModelConfig c;
  c.vocab_size = 128256;
  c.hidden_size = 4096;
  c.intermediate_size = 14336;
  c.layers = 32;
  c.heads = 32;
  c.kv_heads = 8;
  c.head_dim = 128;
  c.moe.experts = experts;
  c.moe.top_k = top_k;
  c.moe.gate = GateKind::linear;
  c.moe.gate_noise = false;
  c.moe.expert_sizes.assign(32, std::vector<std::int64_t>(std::size_t(experts), 1792));
  if (shared) c.moe.shared_sizes.assign(32, {1792});
  c.moe.score_scale.assign(32, 4);
  c.validate();
  return c;
}

TEST(NameTable, KeySetsAndParametersOfTheModelsOfVersionTwo) {
  constexpr std::int64_t dense = 8'030'261'248;  // LLaMA-3-8B
  for (const bool shared : {false, true}) {
    const std::int64_t experts = shared ? 7 : 8;
    const ModelConfig c = v2_config(experts, shared ? 1 : 2, shared);
    std::map<std::string, Shape> expected = common_tensors(c);
    for (std::int64_t l = 0; l < 32; ++l) {
      const std::string layer = str("model.layers.", l, ".");
      const auto block = [&](const std::string& name) {
        expected[layer + name + ".w1.weight"] = {1792, 4096};
        expected[layer + name + ".w3.weight"] = {1792, 4096};
        expected[layer + name + ".w2.weight"] = {4096, 1792};
      };
      expected[layer + "block_sparse_moe.gate.weight"] = {experts, 4096};
      for (std::int64_t e = 0; e < experts; ++e) block(str("block_sparse_moe.experts.", e));
      if (shared) block("mlp_residual");
    }
    EXPECT_NO_THROW(require_representable(c, ModelFormat::llama_moe_v2));
    EXPECT_EQ(tensors_of(c, ModelFormat::llama_moe_v2), expected);
    EXPECT_EQ(expected.size(), 995u);
    EXPECT_EQ(elements(expected), dense + 32 * experts * 4096);  // nothing grows but the gates
    const ParameterCounts counts = count_parameters(c);
    EXPECT_EQ(counts.total, elements(expected));
    EXPECT_NEAR(double(counts.activated), 3.80e9, 0.005e9);
  }
}

TEST(NameTable, V2Defect4DenseLayersHaveTheNamesThatTheModelReads) {
  ModelConfig c = v2_config(8, 2, false);
  c.moe.expert_sizes.front().clear();
  c.moe.expert_sizes.back().clear();
  ASSERT_NO_THROW(require_representable(c, ModelFormat::llama_moe_v2));
  const auto tensors = tensors_of(c, ModelFormat::llama_moe_v2);
  for (const int l : {0, 31}) {
    const std::string layer = str("model.layers.", l, ".");
    EXPECT_EQ(tensors.at(layer + "block_sparse_moe.w1.weight"), (Shape{14336, 4096}));
    EXPECT_EQ(tensors.at(layer + "block_sparse_moe.w3.weight"), (Shape{14336, 4096}));
    EXPECT_EQ(tensors.at(layer + "block_sparse_moe.w2.weight"), (Shape{4096, 14336}));
    EXPECT_FALSE(tensors.contains(layer + "block_sparse_moe.gate.weight"));
    EXPECT_FALSE(tensors.contains(layer + "mlp.gate_proj.weight"));
  }
}

TEST(NameTable, NamesTheAttentionExpertsOfVersionTwo) {
  // 8 experts are the key/value heads with their four queries; 16 and 32 are finer.
  for (const std::int64_t experts : {8, 16, 32}) {
    ModelConfig c = v2_config(8, 2, false);
    c.attention_moe.kind = AttentionExpert::heads;
    c.attention_moe.experts = experts;
    c.attention_moe.layers.assign(32, true);
    c.attention_moe.score_scale.assign(32, 4);
    ASSERT_NO_THROW(require_representable(c, ModelFormat::llama_moe_v2));
    auto tensors = tensors_of(c, ModelFormat::llama_moe_v2);
    const std::int64_t rows = 4096 / experts;
    for (const int l : {0, 31}) {
      const std::string attention = str("model.layers.", l, ".self_attn.");
      EXPECT_EQ(tensors.at(attention + "gate.weight"), (Shape{experts, 4096}));
      for (const std::int64_t e : {std::int64_t(0), experts - 1}) {
        EXPECT_EQ(tensors.at(str(attention, "q_proj.", e, ".weight")), (Shape{rows, 4096}));
        EXPECT_EQ(tensors.at(str(attention, "k_proj.", e, ".weight")), (Shape{128, 4096}));
        EXPECT_EQ(tensors.at(str(attention, "v_proj.", e, ".weight")), (Shape{128, 4096}));
        EXPECT_EQ(tensors.at(str(attention, "o_proj.", e, ".weight")), (Shape{4096, rows}));
      }
      EXPECT_FALSE(tensors.contains(attention + "q_proj.weight"));
    }
    const auto plain = tensors_of(v2_config(8, 2, false), ModelFormat::llama_moe_v2);
    EXPECT_EQ(tensors.size(), plain.size() + 32 * std::size_t(1 + 4 * experts - 4));
    EXPECT_EQ(elements(tensors), count_parameters(c).total);
  }
}

TEST(NameTable, NamesTheTensorsOfLlamaMoeResidual) {
  ModelConfig c = v1_config(14);
  c.moe.expert_sizes.assign(32, std::vector<std::int64_t>(14, 688));
  c.moe.shared_sizes.assign(32, {688, 688});
  c.moe.shared_gate = true;
  std::map<std::string, Shape> expected = common_tensors(c);
  for (std::int64_t l = 0; l < 32; ++l) {
    const std::string mlp = str("model.layers.", l, ".mlp.");
    expected[mlp + "moe_layer.gate.gate_network.0.weight"] = {14, 4096};
    expected[mlp + "moe_layer.gate.gate_network.2.weight"] = {14, 14};
    expected[mlp + "moe_layer.gate.weight_noise.weight"] = {14, 4096};
    expected[mlp + "residual_block.gate.gate_network.weight"] = {2, 4096};
    const auto experts = [&](const std::string& block, int count) {
      for (int e = 0; e < count; ++e) {
        expected[str(mlp, block, ".calculator.experts.weight_gate.", e)] = {688, 4096};
        expected[str(mlp, block, ".calculator.experts.weight_up.", e)] = {688, 4096};
        expected[str(mlp, block, ".calculator.experts.weight_down.", e)] = {4096, 688};
      }
    };
    experts("moe_layer", 14);
    experts("residual_block", 2);
  }
  EXPECT_EQ(tensors_of(c, ModelFormat::llama_moe), expected);
  c.moe.gate = GateKind::linear;
  EXPECT_TRUE(tensors_of(c, ModelFormat::llama_moe)
                  .contains("model.layers.0.mlp.moe_layer.gate.gate_network.weight"));
}

TEST(NameTable, NativeNamesAndShapesAreOurOwn) {
  ModelConfig c = v2_config(7, 1, true);
  c.moe.gate_bias = true;
  c.moe.shared_gate = true;
  c.moe.expert_sizes[3].clear();
  c.moe.shared_sizes[3].clear();
  std::map<std::string, Shape> expected;
  for (const ParameterSpec& p : model_parameters(c)) expected[p.name] = p.shape;
  EXPECT_EQ(tensors_of(c, ModelFormat::native), expected);
}

TEST(NameTable, V1Defect12NothingButLlamaMoeNamesAWeightG) {
  // transformers 4.47 renames every key that contains weight_g and loses the tensor.
  const auto renamed = [](const ModelConfig& c, ModelFormat format) {
    int count = 0;
    for (const auto& [name, shape] : tensors_of(c, format))
      count += name.find("weight_g") != std::string::npos;
    return count;
  };
  const ModelConfig c = v2_config(7, 1, true), mixtral = v2_config(8, 2, false);
  EXPECT_EQ(renamed(mixtral, ModelFormat::mixtral), 0);
  EXPECT_EQ(renamed(c, ModelFormat::llama_moe_v2), 0);
  EXPECT_EQ(renamed(c, ModelFormat::native), 0);
  EXPECT_EQ(renamed(v1_config(8), ModelFormat::llama_moe), 32 * 8);
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
  EXPECT_THROW(stored_parameters(v2_config(7, 1, true), ModelFormat::mixtral), Error);
  ModelConfig attention = v2_config(8, 2, false);
  attention.attention_moe.experts = 8;
  attention.attention_moe.kind = AttentionExpert::heads;
  attention.attention_moe.layers.assign(32, true);
  EXPECT_THROW(stored_parameters(attention, ModelFormat::mixtral), Error);
  ModelConfig dense_layer = v1_config(8);
  dense_layer.moe.expert_sizes[5].clear();
  EXPECT_THROW(stored_parameters(dense_layer, ModelFormat::llama_moe), Error);
}

}  // namespace
}  // namespace moe
