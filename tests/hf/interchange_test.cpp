// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include "config/model_json.h"
#include "hf/hf_config.h"
#include "hf/name_table.h"
#include "hf_test_support.h"

namespace moe::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

namespace fs = std::filesystem;

WriteOptions options_of(ModelFormat format, DType dtype = DType::bf16) {
  WriteOptions options;
  options.format = format;
  options.dtype = dtype;
  return options;
}

/// Reads a folder and writes it in another format.
void convert(const fs::path& from, const fs::path& to, ModelFormat format) {
  const ModelFolder model(from);
  write_model(to, model.config(), options_of(format, model.stored_dtype()),
              rows_of(model, model.stored_dtype()));
}

void expect_same_model(const fs::path& a, const fs::path& b) {
  for (const char* file : {"config.json", "model.safetensors"})
    EXPECT_TRUE(read_file(a / file) == read_file(b / file)) << b / file;
}

TEST(Interchange, LlamaMoeThroughOurOwnIsBitEqual) {
  for (const ModelConfig& config :
       {small_moe_config(GateKind::mlp), small_moe_config(GateKind::linear),
        small_residual_config(GateKind::mlp), small_residual_config(GateKind::linear)}) {
    TestFolder folder;
    const RandomModel model(config, DType::bf16);
    write_model(folder / "v1", config, options_of(ModelFormat::llama_moe), model.rows());
    convert(folder / "v1", folder / "ours", ModelFormat::native);
    convert(folder / "ours", folder / "again", ModelFormat::llama_moe);
    expect_same_model(folder / "v1", folder / "again");
  }
}

TEST(Interchange, V2ThroughOurOwnIsBitEqual) {
  for (const bool contract : {false, true})
    for (const std::int64_t shared : {0, 5}) {
      TestFolder folder;
      const ModelConfig config = small_v2_config(contract, shared);
      const RandomModel model(config, DType::bf16);
      write_model(folder / "v2", config, options_of(ModelFormat::llama_moe_v2), model.rows());
      convert(folder / "v2", folder / "ours", ModelFormat::native);
      convert(folder / "ours", folder / "again", ModelFormat::llama_moe_v2);
      expect_same_model(folder / "v2", folder / "again");
    }
}

TEST(Interchange, V2WithAttentionExpertsThroughOurOwnIsBitEqual) {
  for (const std::int64_t experts : {2, 4}) {
    TestFolder folder;
    const ModelConfig config =
        with_attention(small_v2_config(false, 5), AttentionExpert::heads, experts, 2, 1.5);
    const RandomModel model(config, DType::bf16);
    write_model(folder / "v2", config, options_of(ModelFormat::llama_moe_v2), model.rows());
    convert(folder / "v2", folder / "ours", ModelFormat::native);
    convert(folder / "ours", folder / "again", ModelFormat::llama_moe_v2);
    expect_same_model(folder / "v2", folder / "again");
    // Row n of our o is column n of theirs, expert by expert.
    const Tensor o = model.at("layers.1.attention.experts.o.weight");
    const SafetensorsFile file(folder / "v2" / "model.safetensors");
    const std::int64_t rows = 8 / experts;
    for (std::int64_t e = 0; e < experts; ++e) {
      const Tensor theirs = file.read(str("model.layers.1.self_attn.o_proj.", e, ".weight"));
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t h = 0; h < 8; ++h)
          EXPECT_EQ(theirs.data<bf16>()[h * rows + r].bits,
                    o.data<bf16>()[(e * rows + r) * 8 + h].bits);
    }
  }
}

TEST(Interchange, AttentionExpertsThatAreMissingMisshapenOrTooManyAreNamed) {
  const auto message = [](const ModelConfig& config, auto edit) {
    TestFolder folder;
    const RandomModel model(config, DType::bf16);
    write_model(folder / "v2", config, options_of(ModelFormat::llama_moe_v2), model.rows());
    edit(folder / "v2");
    return input_error_of([&] { ModelFolder f(folder / "v2"); });
  };
  const ModelConfig config =
      with_attention(small_v2_config(false, 0), AttentionExpert::heads, 2, 1);
  const std::string k = "model.layers.3.self_attn.k_proj.1.weight";
  EXPECT_THAT(message(config,
                      [&](const fs::path& path) {
                        edit_tensors(path, [&](auto& d) { return d.name != k; });
                      }),
              HasSubstr(str("'", k, "' is missing")));
  const std::string gate = "model.layers.0.self_attn.gate.weight";
  EXPECT_THAT(message(config,
                      [&](const fs::path& path) {
                        edit_tensors(path, [&](auto& d) {
                          if (d.name == gate) d.shape = {1, 16};
                          return true;
                        });
                      }),
              AllOf(HasSubstr(gate), HasSubstr("[1, 16]"), HasSubstr("[2, 8]")));
  EXPECT_THAT(message(config,
                      [](const fs::path& path) {
                        replace_in_file(path / "config.json", "\"use_attn_moe\": true",
                                        "\"use_attn_moe\": false");
                      }),
              AllOf(HasSubstr("self_attn.q_proj.weight"), HasSubstr("missing")));
  // Other numbers of experts than the file has.
  EXPECT_THAT(message(config,
                      [](const fs::path& path) {
                        replace_in_file(path / "config.json", "\"attn_experts\": 2",
                                        "\"attn_experts\": 4");
                      }),
              HasSubstr("self_attn"));
}

TEST(Interchange, MixtralWithAPowerOfTwoInItsWeightsThroughOurOwnIsBitEqual) {
  TestFolder folder;
  ModelConfig config = small_mixtral_config();
  config.moe.score_scale = {4, 0.5};
  const RandomModel model(config, DType::bf16);
  write_model(folder / "mixtral", config, options_of(ModelFormat::mixtral), model.rows());
  convert(folder / "mixtral", folder / "ours", ModelFormat::native);
  convert(folder / "ours", folder / "again", ModelFormat::mixtral);
  expect_same_model(folder / "mixtral", folder / "again");
  // With the scale kept beside the weights, Mixtral's are the same bits.
  write_model(folder / "scaled", config, options_of(ModelFormat::native), model.rows());
  EXPECT_THAT(ModelFolder(folder / "scaled").config().moe.score_scale, ElementsAre(4, 0.5));
  convert(folder / "scaled", folder / "folded", ModelFormat::mixtral);
  expect_same_model(folder / "mixtral", folder / "folded");
}

// Folders that transformers wrote, with logits that golden_test.cpp holds ours against: what leaves
// again through our own format is what transformers wrote, tensor for tensor.
TEST(Interchange, FoldersOfTransformersLeaveAsTheyCame) {
  for (const char* name : {"llama", "llama3", "mixtral"}) {
    TestFolder folder;
    const ModelFormat format = ModelFolder(fixture(name)).format();
    convert(fixture(name), folder / "ours", ModelFormat::native);
    convert(folder / "ours", folder / "again", format);
    const SafetensorsFile before(fixture(name) / "model.safetensors");
    const SafetensorsFile after(folder / "again" / "model.safetensors");
    EXPECT_EQ(after.entries().size(), before.entries().size()) << name;
    for (const SafetensorsEntry& e : before.entries())
      EXPECT_TRUE(same_bits(after.read(e.name), before.read(e.name))) << name << ": " << e.name;
    const HfConfig was = parse_hf_config(read_file(fixture(name) / "config.json"), "before");
    const HfConfig is = parse_hf_config(read_file(folder / "again" / "config.json"), "after");
    EXPECT_EQ(model_config_to_json(is.config), model_config_to_json(was.config)) << name;
  }
}

TEST(Interchange, MixtralAndV2ReadEachOther) {
  TestFolder folder;
  const ModelConfig config = small_mixtral_config();
  const RandomModel model(config, DType::bf16);
  write_model(folder / "mixtral", config, options_of(ModelFormat::mixtral), model.rows());
  convert(folder / "mixtral", folder / "v2", ModelFormat::llama_moe_v2);
  convert(folder / "v2", folder / "again", ModelFormat::mixtral);
  expect_same_model(folder / "mixtral", folder / "again");
}

TEST(Interchange, UngatedSharedExpertsGetAGateOfZerosInLlamaMoe) {
  TestFolder folder;
  for (const std::size_t count : {1, 2}) {
    ModelConfig config = small_moe_config(GateKind::mlp);
    config.moe.shared_sizes.assign(
        2, count == 1 ? std::vector<std::int64_t>{5} : std::vector<std::int64_t>{2, 3});
    config.moe.shared_scale = 17;  // without a gate it says nothing
    const RandomModel model(config, DType::bf16);
    const fs::path first = folder / str("first-", count), second = folder / str("second-", count);
    write_model(first, config, options_of(ModelFormat::llama_moe), model.rows());
    const ModelFolder read(first);
    EXPECT_TRUE(read.config().moe.shared_gate);
    EXPECT_EQ(read.config().moe.shared_scale, double(count));  // cancels the softmax's 1 / count
    for (const char* layer : {"layers.0.", "layers.1."}) {
      EXPECT_TRUE(same_bits(read.read(str(layer, "shared_router.weight"), DType::bf16),
                            Tensor::zeros({std::int64_t(count), 8}, DType::bf16)));
      for (const char* part : {"shared.gate.weight", "shared.up.weight", "shared.down.weight"})
        EXPECT_TRUE(
            same_bits(read.read(str(layer, part), DType::bf16), model.at(str(layer, part))));
    }
    convert(first, second, ModelFormat::llama_moe);
    expect_same_model(first, second);
  }
}

TEST(Interchange, V2MergesUngatedSharedExperts) {
  TestFolder folder;
  ModelConfig config = small_v2_config(false, 5);
  config.moe.shared_sizes.assign(4, {2, 3});
  const RandomModel model(config, DType::bf16);
  write_model(folder / "v2", config, options_of(ModelFormat::llama_moe_v2), model.rows());
  const ModelFolder read(folder / "v2");
  for (const auto& layer : read.config().moe.shared_sizes) EXPECT_THAT(layer, ElementsAre(5));
  for (const auto& [name, tensor] : model.tensors())
    EXPECT_TRUE(same_bits(read.read(name, DType::bf16), tensor)) << name;
}

TEST(Interchange, NativeIsCutIntoShardsAndRefusesAMissingTensor) {
  TestFolder folder;
  const ModelConfig config = everything_config();
  const RandomModel model(config, DType::f32);
  WriteOptions options = options_of(ModelFormat::native, DType::f32);
  options.max_shard_bytes = 700;
  const WrittenModel written = write_model(folder / "m", config, options, model.rows());
  EXPECT_THAT(written.notes, IsEmpty());
  EXPECT_TRUE(fs::exists(folder / "m" / "model.safetensors.index.json"));
  const ModelFolder read(folder / "m");
  for (const auto& [name, tensor] : model.tensors())
    EXPECT_TRUE(same_bits(read.read(name, DType::f32), tensor)) << name;
  // Experts lie together: views, which transposed layouts do not give.
  EXPECT_TRUE(same_bits(read.view("layers.0.experts.down.weight", 3, 5, DType::f32),
                        model.at("layers.0.experts.down.weight").slice(3, 5)));

  write_model(folder / "one", config, options_of(ModelFormat::native), model.rows());
  edit_tensors(folder / "one", [](auto& d) { return d.name != "layers.2.router.bias"; });
  EXPECT_THAT(input_error_of([&] { ModelFolder f(folder / "one"); }),
              HasSubstr("'layers.2.router.bias' is missing"));
}

/// What LLaMA-MoE v2's converter leaves in the layers that it does not touch.
void rename_as_the_converter(const fs::path& folder) {
  edit_tensors(folder, [](auto& d) {
    for (const auto& [from, to] : {std::pair{"block_sparse_moe.w1", "mlp.gate_proj"},
                                   {"block_sparse_moe.w3", "mlp.up_proj"},
                                   {"block_sparse_moe.w2", "mlp.down_proj"}})
      if (const std::size_t at = d.name.find(from); at != std::string::npos)
        d.name.replace(at, std::string(from).size(), to);
    return true;
  });
}

TEST(Interchange, V2Defect4ContractLayersLoadUnderBothNames) {
  for (const std::int64_t shared : {0, 5}) {
    TestFolder folder;
    const ModelConfig config = small_v2_config(true, shared);
    const RandomModel model(config, DType::bf16);
    const fs::path path = folder / "v2";
    write_model(path, config, options_of(ModelFormat::llama_moe_v2), model.rows());
    EXPECT_THAT(read_file(path / "model.safetensors"),
                HasSubstr("\"model.layers.3.block_sparse_moe.w2.weight\""));
    for (const bool renamed : {false, true}) {
      if (renamed) rename_as_the_converter(path);
      EXPECT_EQ(read_file(path / "model.safetensors").find("mlp.gate_proj") != std::string::npos,
                renamed);
      const ModelFolder read(path);
      EXPECT_EQ(model_config_to_json(read.config()), model_config_to_json(config));
      for (const auto& [name, tensor] : model.tensors())
        ASSERT_TRUE(same_bits(read.read(name, DType::bf16), tensor)) << name;
    }
  }
}

TEST(Interchange, V2Defect4DenseLayersAreAsWideAsTheFileSays) {
  // The converter of the model with a shared expert leaves 12 + 5 neurons, the model makes 12.
  for (const std::int64_t width : {12, 17}) {
    TestFolder folder;
    ModelConfig config = small_v2_config(true, 5);
    config.intermediate_size = width;
    fs::create_directories(folder / "v2");
    write_file(folder / "v2" / "config.json",
               hf_config_json(config, ModelFormat::llama_moe_v2, DType::f32));
    std::vector<SafetensorsWriter::Declaration> declared;
    for (const StoredParameter& p : stored_parameters(config, ModelFormat::llama_moe_v2))
      for (const StoredPiece& piece : p.pieces)
        declared.push_back({piece.tensor, DType::f32, piece.shape});
    SafetensorsWriter writer(folder / "v2" / "model.safetensors", declared);
    for (const auto& d : declared) writer.write(Tensor::zeros(d.shape, d.dtype));
    writer.finish();
    const ModelFolder read(folder / "v2");
    EXPECT_EQ(read.config().intermediate_size, width);
    EXPECT_THAT(read.read("layers.3.ffn.down.weight", DType::f32).shape(), ElementsAre(width, 8));
  }
}

TEST(Interchange, AContractLayerUnderBothNamesAtOnceIsRefused) {
  TestFolder folder;
  const ModelConfig config = small_v2_config(true, 0);
  const RandomModel model(config, DType::bf16);
  write_model(folder / "v2", config, options_of(ModelFormat::llama_moe_v2), model.rows());
  const fs::path second = folder / "v2" / "second.safetensors";
  const std::string other = "model.layers.3.mlp.up_proj.weight";
  SafetensorsWriter writer(second, {{other, DType::bf16, {12, 8}}});
  writer.write(Tensor::zeros({12, 8}, DType::bf16));
  writer.finish();
  write_file(folder / "v2" / "model.safetensors.index.json",
             str(R"({"weight_map":{"model.norm.weight":"model.safetensors",")", other,
                 R"(":"second.safetensors"}})"));
  EXPECT_THAT(input_error_of([&] { ModelFolder f(folder / "v2"); }),
              AllOf(HasSubstr(second.string()), HasSubstr(other), HasSubstr("no place")));
}

TEST(Interchange, V1Defect21WeightsKeepTheirType) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TestFolder folder;
    const ModelConfig config = small_moe_config(GateKind::mlp);
    const ParameterRows large = [&](const std::string& name, std::int64_t first,
                                    std::int64_t count) {
      const Tensor t = RandomModel(config, DType::f32).at(name).slice(first, count).clone();
      for (std::int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] *= 1e6f;  // infinite in f16
      return scaled_to(t, 1, dtype, name);
    };
    write_model(folder / "a", config, options_of(ModelFormat::llama_moe, dtype), large);
    convert(folder / "a", folder / "b", ModelFormat::llama_moe);
    EXPECT_EQ(ModelFolder(folder / "b").stored_dtype(), dtype);
    EXPECT_NO_THROW(ModelFolder(folder / "b").require_finite());
    expect_same_model(folder / "a", folder / "b");
    EXPECT_THAT(read_file(folder / "b" / "config.json"),
                HasSubstr(dtype == DType::f32 ? "\"torch_dtype\": \"float32\""
                                              : "\"torch_dtype\": \"bfloat16\""));
  }
}

TEST(Interchange, V1Defect22ExistingFoldersAreNotDeleted) {
  TestFolder folder;
  fs::create_directories(folder / "out");
  write_file(folder / "out" / "config.json", "{}");
  write_file(folder / "out" / "results.txt", "a week of work");
  const ModelConfig config = small_moe_config(GateKind::mlp);
  const RandomModel model(config, DType::bf16);
  for (const ModelFormat format : {ModelFormat::llama_moe, ModelFormat::native})
    EXPECT_THAT(input_error_of(
                    [&] { write_model(folder / "out", config, options_of(format), model.rows()); }),
                AllOf(HasSubstr("exists already"), HasSubstr("--force")));
  EXPECT_EQ(read_file(folder / "out" / "results.txt"), "a week of work");
}

TEST(Interchange, V1Defect25UnevenExpertsKeepTheirSizes) {
  TestFolder folder;
  const ModelConfig config = small_moe_config(GateKind::mlp);  // 11 neurons, 3 experts
  const RandomModel model(config, DType::bf16);
  write_model(folder / "m", config, options_of(ModelFormat::llama_moe), model.rows());
  EXPECT_THAT(ModelFolder(folder / "m").config().moe.expert_sizes,
              ElementsAre(ElementsAre(4, 4, 3), ElementsAre(2, 6, 3)));
}

TEST(Interchange, Llama3IdsAndFrequenciesSurvive) {
  TestFolder folder;
  for (const char* file : {"config.json", "model.safetensors"}) {
    fs::create_directories(folder / "in");
    fs::copy_file(fixture("llama3") / file, folder / "in" / file);
  }
  const std::string generation = R"({"bos_token_id": 90, "eos_token_id": [91, 92]})";
  const ModelFolder before(folder / "in");
  WriteOptions options = options_of(ModelFormat::llama);
  write_model(folder / "made", before.config(), options, rows_of(before, DType::bf16));
  EXPECT_EQ(model_config_to_json(ModelFolder(folder / "made").config()),
            model_config_to_json(before.config()));
  EXPECT_EQ(before.config().rope_scaling.kind, RopeScaling::Kind::llama3);
  EXPECT_THAT(read_file(folder / "made" / "generation_config.json"),
              AllOf(HasSubstr(str("\"eos_token_id\": ", before.config().eos_token)),
                    HasSubstr("_from_model_config")));
  // All ids that end a text stay where they can: in a generation_config.json that is copied.
  write_file(folder / "in" / "generation_config.json", generation);
  options.tokenizer_from = folder / "in";
  write_model(folder / "copied", before.config(), options, rows_of(before, DType::bf16));
  EXPECT_EQ(read_file(folder / "copied" / "generation_config.json"), generation);
}

TEST(Interchange, GenerationConfigLeavesOutIdsThatTheModelHasNot) {
  TestFolder folder;
  ModelConfig config = small_dense_config();
  config.bos_token = -1;
  const RandomModel model(config, DType::bf16);
  write_model(folder / "m", config, options_of(ModelFormat::llama), model.rows());
  EXPECT_EQ(read_file(folder / "m" / "generation_config.json"),
            "{\n  \"_from_model_config\": true,\n  \"eos_token_id\": 2\n}\n");
}

class PythonFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(folder_ / "code");
    for (const char* file : {"configuration_llama_moe.py", "modeling_llama_moe_hf.py",
                             "configuration_mixtral.py", "modeling_mixtral.py"})
      write_file(folder_ / "code" / file, file);
  }
  WrittenModel write(const std::string& to, const ModelConfig& config, WriteOptions options) {
    return write_model(folder_ / to, config, options, RandomModel(config, DType::bf16).rows());
  }
  std::set<std::string> python_in(const std::string& folder) {
    std::set<std::string> names;
    for (const auto& item : fs::directory_iterator(folder_ / folder))
      if (item.path().extension() == ".py") names.insert(item.path().filename().string());
    return names;
  }
  TestFolder folder_;
  const ModelConfig v1_ = small_moe_config(GateKind::mlp), v2_ = small_v2_config(false, 5);
};

TEST_F(PythonFiles, AreCopiedForTheFormatsThatNameThem) {
  WriteOptions options = options_of(ModelFormat::llama_moe);
  options.modeling_from = folder_ / "code";
  EXPECT_THAT(write("v1", v1_, options).notes, IsEmpty());
  EXPECT_THAT(python_in("v1"),
              ElementsAre("configuration_llama_moe.py", "modeling_llama_moe_hf.py"));
  options.format = ModelFormat::llama_moe_v2;
  EXPECT_THAT(write("v2", v2_, options).notes, IsEmpty());
  EXPECT_THAT(python_in("v2"), ElementsAre("configuration_mixtral.py", "modeling_mixtral.py"));
  options.format = ModelFormat::native;
  EXPECT_THAT(write("native", v1_, options).notes, IsEmpty());
  EXPECT_THAT(python_in("native"), IsEmpty());
  options.modeling_from = {};
  options.format = ModelFormat::llama_moe_v2;
  options.tokenizer_from = folder_ / "code";
  EXPECT_THAT(write("beside", v2_, options).notes, IsEmpty());
  EXPECT_EQ(python_in("beside").size(), 2u);
}

TEST_F(PythonFiles, ThatAreMissingAreNamed) {
  EXPECT_THAT(write("v1", v1_, options_of(ModelFormat::llama_moe)).notes,
              ElementsAre(AllOf(HasSubstr("configuration_llama_moe.py"),
                                HasSubstr("modeling_llama_moe_hf.py"), HasSubstr("config.json"))));
  EXPECT_THAT(write("v2", v2_, options_of(ModelFormat::llama_moe_v2)).notes,
              ElementsAre(AllOf(HasSubstr("configuration_mixtral.py"),
                                HasSubstr("modeling_mixtral.py"), HasSubstr("v2"))));
  EXPECT_THAT(
      write("residual", small_residual_config(GateKind::mlp), options_of(ModelFormat::llama_moe))
          .notes,
      ElementsAre(AllOf(HasSubstr("smoe"), Not(HasSubstr("configuration_llama_moe.py")))));

  WriteOptions options = options_of(ModelFormat::llama_moe);
  options.modeling_from = folder_ / "code";
  fs::remove(folder_ / "code" / "modeling_llama_moe_hf.py");
  EXPECT_THAT(input_error_of([&] { write("refused", v1_, options); }),
              HasSubstr((folder_ / "code" / "modeling_llama_moe_hf.py").string()));
  EXPECT_FALSE(fs::exists(folder_ / "refused"));
}

}  // namespace
}  // namespace moe::testing
