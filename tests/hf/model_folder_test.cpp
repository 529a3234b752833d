// SPDX-License-Identifier: Apache-2.0
#include "hf/model_folder.h"

#include <cmath>
#include <memory>
#include <numbers>

#include "hf/safetensors.h"
#include "hf_test_support.h"
#include "support/realdata.h"
#include "support/stories260k.h"

namespace moe::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

/// A fixture copied to where a test may damage it.
fs::path copy_of(const TestFolder& folder, const std::string& name) {
  const fs::path to = folder / name;
  fs::create_directories(to);
  for (const char* file : {"config.json", "model.safetensors"})
    fs::copy_file(fixture(name) / file, to / file);
  return to;
}

void expect_all_shapes(const ModelFolder& model) {
  for (const ParameterSpec& p : model_parameters(model.config())) {
    EXPECT_EQ(model.read(p.name, DType::f32).shape(), p.shape) << p.name;
  }
}

TEST(ModelFolder, ReadsALlamaThroughOurNames) {
  const ModelFolder model(fixture("llama"));
  EXPECT_EQ(model.format(), ModelFormat::llama);
  EXPECT_EQ(model.stored_dtype(), DType::f32);
  expect_all_shapes(model);
  const SafetensorsFile file(fixture("llama") / "model.safetensors");
  EXPECT_TRUE(same_bits(model.read("layers.1.attention.k.weight", DType::f32),
                        file.read("model.layers.1.self_attn.k_proj.weight")));
  const Tensor stored = file.read("model.layers.1.mlp.down_proj.weight");  // [32, 48]
  const Tensor down = model.read("layers.1.ffn.down.weight", DType::f32);  // [48, 32]
  for (std::int64_t n = 0; n < 48; ++n)
    for (std::int64_t h = 0; h < 32; ++h)
      ASSERT_EQ(down.data<float>()[n * 32 + h], stored.data<float>()[h * 48 + n]);
}

TEST(ModelFolder, RowsAreRowsOfTheWholeInEveryType) {
  for (const char* name : {"llama", "llama3", "mixtral"}) {
    const ModelFolder model(fixture(name));
    for (const ParameterSpec& p : model_parameters(model.config()))
      for (const DType as : {DType::f32, DType::bf16, DType::f64, DType::f16}) {
        const Tensor whole = model.read(p.name, as);
        EXPECT_EQ(whole.dtype(), as);
        const std::int64_t rows = p.shape[0];
        for (const auto& [first, count] : {std::pair{std::int64_t(0), std::int64_t(1)},
                                           {rows / 3, rows / 2},
                                           {rows - 1, 1},
                                           {rows / 2, 0}}) {
          const Tensor part = model.read(p.name, first, count, as);
          ASSERT_TRUE(same_bits(part, whole.slice(first, count))) << p.name << " " << moe::name(as);
        }
        EXPECT_THROW(model.read(p.name, 1, rows, as), Error);
        EXPECT_THROW(model.read(p.name, -1, 1, as), Error);
      }
    EXPECT_THROW(model.read("layers.9.ffn.up.weight", DType::f32), Error);
  }
}

TEST(ModelFolder, ViewsAreTheStoredBytesAndOutliveTheFolder) {
  auto model = std::make_unique<ModelFolder>(fixture("llama3"));
  const Tensor up = model->view("layers.0.ffn.up.weight", 3, 5, DType::bf16);
  const Tensor down = model->view_transposed("layers.0.ffn.down.weight", DType::bf16);
  EXPECT_TRUE(same_bits(up, model->read("layers.0.ffn.up.weight", 3, 5, DType::bf16)));
  EXPECT_THAT(down.shape(), ElementsAre(32, 40));
  EXPECT_FALSE(model->view("layers.0.ffn.up.weight", 3, 5, DType::f32).defined());
  EXPECT_FALSE(model->view("layers.0.ffn.down.weight", 3, 5, DType::bf16).defined());
  EXPECT_FALSE(model->view_transposed("layers.0.ffn.up.weight", DType::bf16).defined());
  EXPECT_THROW(model->view("layers.0.ffn.up.weight", 38, 3, DType::bf16), Error);
  const Tensor before = down.clone();
  model.reset();
  EXPECT_TRUE(same_bits(down, before));

  const ModelFolder mixtral(fixture("mixtral"));
  EXPECT_FALSE(mixtral.view("layers.0.experts.up.weight", 0, 1, DType::f32).defined());
}

TEST(ModelFolder, ReadsLlama3WithTiedEmbeddings) {
  const ModelFolder model(fixture("llama3"));
  EXPECT_EQ(model.stored_dtype(), DType::bf16);
  const ModelConfig& c = model.config();
  EXPECT_TRUE(c.tie_embeddings);
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_EQ(c.eos_token, 91);
  expect_all_shapes(model);
  // The frequencies that transformers derives from this config, by the rule of docs/numerics.md.
  const Tensor expected =
      SafetensorsFile(fixture("llama3") / "expected.safetensors").read("inv_freq");
  const RopeScaling& s = c.rope_scaling;
  for (std::int64_t i = 0; i < 8; ++i) {
    const double f = std::pow(c.rope_theta, -2.0 * double(i) / double(c.head_dim));
    const double turns = double(s.original_max_position) * f / (2 * std::numbers::pi);
    const double smooth = std::clamp(
        (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor), 0.0, 1.0);
    EXPECT_NEAR(expected.data<float>()[i], (1 - smooth) * f / s.factor + smooth * f, 1e-6 * f);
  }
}

TEST(ModelFolder, ReadsAMixtralWithDownTransposed) {
  const ModelFolder model(fixture("mixtral"));
  EXPECT_EQ(model.format(), ModelFormat::mixtral);
  expect_all_shapes(model);
  const SafetensorsFile file(fixture("mixtral") / "model.safetensors");
  const std::string expert = "model.layers.0.block_sparse_moe.experts.2.";
  EXPECT_TRUE(same_bits(model.read("layers.0.experts.gate.weight", 48, 24, DType::f32),
                        file.read(expert + "w1.weight")));
  EXPECT_TRUE(same_bits(model.read("layers.0.experts.up.weight", 48, 24, DType::f32),
                        file.read(expert + "w3.weight")));
  const Tensor w2 = file.read(expert + "w2.weight");
  const Tensor down = model.read("layers.0.experts.down.weight", 48, 24, DType::f32);
  for (std::int64_t n = 0; n < 24; ++n)
    for (std::int64_t h = 0; h < 32; ++h)
      ASSERT_EQ(down.data<float>()[n * 32 + h], w2.data<float>()[h * 24 + n]);
}

TEST(ModelFolder, OpensTinyStories656k) {
  MOE_SKIP_WITHOUT_REALDATA("models/tinystories-656k");
  const ModelFolder model(realdata() / "models/tinystories-656k");
  EXPECT_TRUE(model.config().tie_embeddings);
  EXPECT_EQ(model_parameters(model.config()).size(), 20u);
  expect_all_shapes(model);
  // Its head is stored under lm_head.weight alone, and every value fits bf16.
  const Tensor embed = model.read("embed.weight", DType::f32);
  EXPECT_TRUE(
      same_bits(scaled_to(model.read("embed.weight", DType::bf16), 1, DType::f32, "x"), embed));
}

TEST(ModelFolder, OpensAConvertedLlama2cModel) {
  MOE_SKIP_WITHOUT_REALDATA("models/stories260K/stories260K.bin");
  TestFolder folder;
  convert_llama2c(realdata() / "models/stories260K/stories260K.bin", folder / "model");
  const ModelFolder model(folder / "model");
  EXPECT_EQ(model.config().layers, 5);
  EXPECT_EQ(model.config().intermediate_size, 172);
  EXPECT_EQ(model.config().kv_heads, 4);
  EXPECT_TRUE(model.config().tie_embeddings);
  expect_all_shapes(model);
  // The first pair of a llama2.c head, rows 0 and 1, becomes rows 0 and 4 of a head of 8.
  std::ifstream bin(realdata() / "models/stories260K/stories260K.bin", std::ios::binary);
  std::vector<float> raw(64 * 2);
  bin.seekg(28 + 4 * (512 * 64 + 5 * 64));  // after the embeddings and the attention norms: wq
  bin.read(reinterpret_cast<char*>(raw.data()), std::streamsize(raw.size() * 4));
  const Tensor q = model.read("layers.0.attention.q.weight", DType::f32);
  for (int i = 0; i < 64; ++i) {
    ASSERT_EQ(q.data<float>()[i], raw[std::size_t(i)]);
    ASSERT_EQ(q.data<float>()[4 * 64 + i], raw[std::size_t(64 + i)]);
  }
}

TEST(ModelFolder, NamesAMissingTensor) {
  TestFolder folder;
  const fs::path model = copy_of(folder, "llama");
  edit_tensors(model, [](auto& d) { return d.name != "model.layers.1.mlp.up_proj.weight"; });
  EXPECT_THAT(input_error_of([&] { ModelFolder f(model); }),
              AllOf(HasSubstr(model.string()), HasSubstr("'model.layers.1.mlp.up_proj.weight'")));
}

TEST(ModelFolder, UntiedModelNeedsItsHead) {
  TestFolder folder;
  const fs::path model = copy_of(folder, "llama");
  edit_tensors(model, [](auto& d) { return d.name != "lm_head.weight"; });
  EXPECT_THAT(input_error_of([&] { ModelFolder f(model); }),
              AllOf(HasSubstr("'lm_head.weight'"), HasSubstr("tie_word_embeddings")));
  replace_in_file(model / "config.json", "\"tie_word_embeddings\": false",
                  "\"tie_word_embeddings\": true");
  EXPECT_NO_THROW(ModelFolder{model});
}

TEST(ModelFolder, TiedModelMayStoreItsHeadTwiceIfBothAreEqual) {
  TestFolder folder;
  const fs::path model = folder / "m";
  ModelConfig config = small_dense_config();
  const RandomModel random(config, DType::bf16);
  WriteOptions options;
  options.format = ModelFormat::llama;
  const auto write = [&](const char* head) {
    write_model(model, config, options, [&](const std::string& name, auto first, auto count) {
      return random.at(name == "head.weight" ? head : name).slice(first, count);
    });
    replace_in_file(model / "config.json", "\"tie_word_embeddings\": false",
                    "\"tie_word_embeddings\": true");
    options.force = true;
  };
  write("embed.weight");
  EXPECT_TRUE(
      same_bits(ModelFolder(model).read("embed.weight", DType::bf16), random.at("embed.weight")));
  write("head.weight");
  EXPECT_THAT(input_error_of([&] { ModelFolder f(model); }),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("'lm_head.weight' differs"),
                    HasSubstr("'model.embed_tokens.weight'")));
}

TEST(ModelFolder, TiedModelMayStoreItsHeadAlone) {
  TestFolder folder;
  const fs::path model = copy_of(folder, "llama");
  edit_tensors(model, [](auto& d) { return d.name != "model.embed_tokens.weight"; });
  replace_in_file(model / "config.json", "\"tie_word_embeddings\": false",
                  "\"tie_word_embeddings\": true");
  EXPECT_TRUE(same_bits(ModelFolder(model).read("embed.weight", DType::f32),
                        SafetensorsFile(model / "model.safetensors").read("lm_head.weight")));
}

TEST(ModelFolder, NamesATensorOfTheWrongShape) {
  TestFolder folder;
  const fs::path model = copy_of(folder, "mixtral");
  edit_tensors(model, [](auto& d) {
    if (d.name == "model.layers.0.block_sparse_moe.experts.1.w2.weight") d.shape = {24, 32};
    return true;
  });
  EXPECT_THAT(input_error_of([&] { ModelFolder f(model); }),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("experts.1.w2.weight'"),
                    HasSubstr("[24, 32]"), HasSubstr("[32, 24]")));
}

TEST(ModelFolder, RefusesTensorsThatTheModelHasNoPlaceFor) {
  TestFolder folder;
  const fs::path model = copy_of(folder, "llama");
  replace_in_file(model / "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
  EXPECT_THAT(input_error_of([&] { ModelFolder f(model); }), HasSubstr("'model.layers.1."));
}

TEST(ModelFolder, RefusesTypesThatAreNoFloats) {
  TestFolder folder;
  const fs::path model = copy_of(folder, "llama");
  std::string bytes = read_file(model / "model.safetensors");
  const std::size_t at = bytes.find("\"F32\"");
  write_file(model / "model.safetensors", bytes.replace(at, 5, "\"I32\""));
  EXPECT_THAT(input_error_of([&] { ModelFolder f(model); }), HasSubstr("I32"));
}

TEST(ModelFolder, SaysWhatAFolderLacks) {
  TestFolder folder;
  const auto message = [&](const fs::path& path) {
    return input_error_of([&] { ModelFolder f(path); });
  };
  EXPECT_THAT(message(folder / "none"), HasSubstr("no folder"));
  EXPECT_THAT(message(folder.path()), HasSubstr("config.json"));
  fs::copy_file(fixture("llama") / "config.json", folder / "config.json");
  EXPECT_THAT(message(folder.path()), HasSubstr("neither model.safetensors"));
  write_file(folder / "pytorch_model.bin", "x");
  EXPECT_THAT(message(folder.path()), HasSubstr("docs/file_formats.md"));
}

class BrokenIndex : public ::testing::Test {
 protected:
  TestFolder folder_;
  fs::path index_ = folder_ / "model.safetensors.index.json";

  void SetUp() override {
    fs::copy_file(fixture("llama") / "config.json", folder_ / "config.json");
    fs::copy_file(fixture("llama") / "model.safetensors", folder_ / "a.safetensors");
  }
  std::string message(const std::string& index) {
    write_file(index_, index);
    return input_error_of([&] { ModelFolder f(folder_.path()); });
  }
};

TEST_F(BrokenIndex, NamesTheShardThatIsMissing) {
  EXPECT_THAT(
      message(R"({"weight_map":{"lm_head.weight":"b.safetensors"}})"),
      AllOf(HasSubstr("index.json"), HasSubstr("'lm_head.weight'"), HasSubstr("b.safetensors")));
}
TEST_F(BrokenIndex, NamesTheTensorThatIsInAnotherShard) {
  EXPECT_THAT(message(R"({"weight_map":{"other":"a.safetensors"}})"),
              AllOf(HasSubstr("'other'"), HasSubstr("a.safetensors")));
}
TEST_F(BrokenIndex, RefusesPathsOutOfTheFolder) {
  for (const char* path : {"../a.safetensors", "/etc/passwd", "..", "", "sub/a.safetensors"})
    EXPECT_THAT(message(str(R"({"weight_map":{"x":")", path, "\"}}")), HasSubstr("plain file name"))
        << path;
}
TEST_F(BrokenIndex, RefusesWhatIsNoIndex) {
  EXPECT_THAT(message("[]"), HasSubstr("index.json"));
  EXPECT_THAT(message("{}"), HasSubstr("weight_map"));
  EXPECT_THAT(message(R"({"weight_map":{"x":3}})"), HasSubstr("'x'"));
}
TEST_F(BrokenIndex, RefusesATensorInTwoShards) {
  fs::copy_file(folder_ / "a.safetensors", folder_ / "b.safetensors");
  EXPECT_THAT(message(R"({"weight_map":{"lm_head.weight":"a.safetensors",)"
                      R"("model.norm.weight":"b.safetensors"}})"),
              AllOf(HasSubstr("a.safetensors"), HasSubstr("b.safetensors")));
}
TEST_F(BrokenIndex, ReadsTheWholeFolderWhenAllIsWell) {
  write_file(index_, R"({"weight_map":{"lm_head.weight":"a.safetensors"}})");
  expect_all_shapes(ModelFolder(folder_.path()));
}

}  // namespace
}  // namespace moe::testing
