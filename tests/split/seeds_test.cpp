// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "config/model_json.h"
#include "config/train_config.h"
#include "hf/hf_config.h"
#include "hf/name_table.h"
#include "split/calibration_support.h"
#include "split/split_plan.h"

namespace moe {
namespace {

using test::TestFolder;

/// A dense folder of a model's real size, whose weights are a hole in the file: headers alone.
std::filesystem::path hollow_folder(const TestFolder& folder, const ModelConfig& config) {
  const std::filesystem::path path = folder / "dense";
  std::filesystem::create_directory(path);
  std::ofstream(path / "config.json") << hf_config_json(config, ModelFormat::llama, DType::bf16);
  nlohmann::ordered_json header;
  std::int64_t at = 0;
  for (const StoredParameter& p : stored_parameters(config, ModelFormat::llama))
    for (const StoredPiece& piece : p.pieces) {
      std::int64_t bytes = 2;
      for (const std::int64_t d : piece.shape) bytes *= d;
      header[piece.tensor] = {
          {"dtype", "BF16"}, {"shape", piece.shape}, {"data_offsets", {at, at + bytes}}};
      at += bytes;
    }
  const std::string text = header.dump();
  const auto size = std::uint64_t(text.size());
  const std::filesystem::path file = path / "model.safetensors";
  std::ofstream out(file, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&size), 8);
  out << text;
  out.close();
  std::filesystem::resize_file(file, 8 + size + std::uint64_t(at));
  return path;
}

ModelConfig llama_2_7b() {
  ModelConfig c;
  c.vocab_size = 32000;
  c.hidden_size = 4096;
  c.intermediate_size = 11008;
  c.layers = 32;
  c.heads = c.kv_heads = 32;
  c.head_dim = 128;
  c.max_positions = 4096;
  return c;
}

ModelConfig llama_3_8b() {
  ModelConfig c = llama_2_7b();
  c.vocab_size = 128256;
  c.intermediate_size = 14336;
  c.kv_heads = 8;
  c.rope_theta = 500000;
  return c;
}

SplitPlan plan_of(const std::filesystem::path& input, SplitOptions o) {
  o.input = input;
  o.dry_run = true;
  return plan_split(ModelFolder(input), o, *single_rank());
}

struct Seed {
  const char* recipe;  // configs/NAME.yaml
  std::int64_t experts, top_k, size;
  double scale;
  std::int64_t total;
  double activated;  // in units of 1e9
  std::size_t tensors;
};

// The three published models: parameters, and names and shapes of their tensors.
TEST(Seeds, OfLlamaMoeV1HaveTheirSizesAndTensors) {
  const TestFolder folder;
  const auto input = hollow_folder(folder, llama_2_7b());
  for (const Seed& seed :
       {Seed{"llama_moe_3_5b_2_8", 8, 2, 1376, 4, 6'740'514'816, 3.493, 1091},
        Seed{"llama_moe_3_5b_4_16", 16, 4, 688, 4, 6'742'618'112, 3.494, 1859},
        Seed{"llama_moe_3_0b_2_16", 16, 2, 688, 8, 6'742'618'112, 2.953, 1859}}) {
    SplitOptions o;
    o.experts = seed.experts;
    o.top_k = seed.top_k;
    o.scale = seed.scale;
    const SplitPlan plan = plan_of(input, o);
    const ParameterCounts counts = count_parameters(plan.config);
    EXPECT_EQ(counts.total, seed.total);
    EXPECT_NEAR(double(counts.activated) / 1e9, seed.activated, 5e-4);
    std::set<std::string> names;
    for (const StoredParameter& p : stored_parameters(plan.config, ModelFormat::llama_moe))
      for (const StoredPiece& piece : p.pieces) {
        names.insert(piece.tensor);
        const bool down = piece.tensor.find(".weight_down.") != std::string::npos;
        if (down || piece.tensor.find(".weight_gate.") != std::string::npos) {
          EXPECT_EQ(piece.shape, down ? (Shape{4096, seed.size}) : (Shape{seed.size, 4096}));
        }
      }
    for (const StoredParameter& p : computed_tensors(plan.config, ModelFormat::llama_moe)) {
      names.insert(p.pieces.at(0).tensor);
      EXPECT_EQ(p.pieces[0].shape, (Shape{64}));
    }
    EXPECT_EQ(names.size(), seed.tensors);
    EXPECT_TRUE(names.contains("model.layers.31.self_attn.rotary_emb.inv_freq"));
    EXPECT_TRUE(names.contains("model.layers.31.mlp.gate.weight_noise.weight"));
    EXPECT_EQ(plan.config.moe.score_scale[0], seed.scale);

    // The run's configuration takes this model as it is.
    const TrainConfig run =
        load_train_config(str(MOE_SOURCE_DIR "/configs/", seed.recipe, ".yaml"));
    ModelConfig trained = plan.config;
    apply_model_settings(run, trained);
    EXPECT_EQ(model_config_to_json(trained), model_config_to_json(plan.config));
    EXPECT_EQ(count_parameters(trained).total, seed.total);
  }
}

// LLaMA-MoE v2: nothing is added to 8.03 B parameters but the gates, 32 * 8 * 4096.
TEST(Seeds, OfLlamaMoeV2HaveTheirSizes) {
  const TestFolder folder;
  const auto input = hollow_folder(folder, llama_3_8b());
  const std::int64_t dense = count_parameters(llama_3_8b()).total;
  EXPECT_NEAR(double(dense) / 1e9, 8.03, 5e-3);
  SplitOptions o;
  o.experts = 8;
  o.gate = GateInit::linear;
  o.format = ModelFormat::llama_moe_v2;
  const ParameterCounts top2 = count_parameters(plan_of(input, o).config);
  EXPECT_EQ(top2.total, dense + 32 * 8 * 4096);
  EXPECT_NEAR(double(top2.activated) / 1e9, 3.80, 5e-3);

  // One shared expert takes a seventh of what seven routed ones share: the same sizes.
  ModelConfig residual = llama_3_8b();
  residual.moe.experts = 7;
  residual.moe.top_k = 1;
  residual.moe.gate = GateKind::linear;
  residual.moe.gate_noise = false;
  residual.moe.expert_sizes.assign(32, std::vector<std::int64_t>(7, 1792));
  residual.moe.shared_sizes.assign(32, {1792});
  residual.moe.score_scale.assign(32, 1);
  EXPECT_NEAR(double(count_parameters(residual).activated) / 1e9, 3.80, 5e-3);
}

}  // namespace
}  // namespace moe
