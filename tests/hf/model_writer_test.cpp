// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "config/model_json.h"
#include "hf/name_table.h"
#include "hf/safetensors.h"
#include "hf_test_support.h"
#include "support/realdata.h"

namespace moe::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

namespace fs = std::filesystem;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& item : fs::directory_iterator(folder))
    names.push_back(item.path().filename().string());
  return names;
}

struct Case {
  const char* what;
  ModelConfig config;
  ModelFormat format;
};

class EveryFormat : public ::testing::TestWithParam<Case> {};

TEST_P(EveryFormat, ReadsBackWhatWasWrittenAndWritesTheSameFilesAgain) {
  const auto& [what, config, format] = GetParam();
  TestFolder folder;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64, DType::f16}) {
    const RandomModel model(config, dtype);
    const fs::path first = folder / str("first-", name(dtype)), second = folder / "second";
    WriteOptions options;
    options.format = format;
    options.dtype = dtype;
    options.force = true;
    std::int64_t size = 0;
    const std::int64_t bytes = write_model(first, config, options, model.rows()).bytes;
    for (const auto& item : fs::directory_iterator(first)) size += std::int64_t(item.file_size());
    EXPECT_EQ(bytes, size);

    const ModelFolder read(first);
    EXPECT_EQ(read.format(), format);
    EXPECT_EQ(model_config_to_json(read.config()), model_config_to_json(config));
    EXPECT_EQ(read.stored_dtype(), dtype);
    for (const auto& [name, tensor] : model.tensors())
      ASSERT_TRUE(same_bits(read.read(name, dtype), tensor)) << name;

    write_model(second, read.config(), options, rows_of(read, dtype));
    for (const char* file : {"config.json", "model.safetensors"})
      EXPECT_TRUE(read_file(first / file) == read_file(second / file)) << file;
  }
}

TEST(ModelWriter, TheSelectionBiasKeepsItsBitsInAFolderOfSixteenBits) {
  TestFolder folder;
  const ModelConfig config = everything_config();
  const RandomModel model(config, DType::f32);
  WriteOptions options;
  options.format = ModelFormat::native;
  options.dtype = DType::bf16;
  write_model(folder / "model", config, options, model.rows());
  const ModelFolder read(folder / "model");
  const std::string name = "layers.2.router.selection_bias";
  EXPECT_EQ(read.stored_dtype(), DType::bf16);
  EXPECT_EQ(read.stored_dtype("layers.2.router.bias"), DType::bf16);
  EXPECT_EQ(read.stored_dtype(name), DType::f32);
  EXPECT_TRUE(same_bits(read.read(name, DType::f32), model.at(name)));
}

ModelConfig tied(ModelConfig c) {
  c.tie_embeddings = true;
  return c;
}

/// Both mixtures, the attention's in the last layer alone, with all that its router can have.
ModelConfig attention_of_some_layers() {
  ModelConfig c = with_attention(everything_config(), AttentionExpert::heads, 4, 1, 0.5);
  c.attention_moe.layers = {false, false, true};
  c.attention_moe.score_scale = {1, 1, 0.3};
  c.attention_moe.softmax_over_all = true;
  c.attention_moe.gate_bias = true;
  c.attention_moe.selection_bias = true;
  return c;
}

INSTANTIATE_TEST_SUITE_P(
    All, EveryFormat,
    ::testing::Values(
        Case{"Llama", small_dense_config(), ModelFormat::llama},
        Case{"TiedLlama", tied(small_dense_config()), ModelFormat::llama},
        Case{"LlamaMoeMlp", small_moe_config(GateKind::mlp), ModelFormat::llama_moe},
        Case{"LlamaMoeLinear", small_moe_config(GateKind::linear), ModelFormat::llama_moe},
        Case{"TiedLlamaMoe", tied(small_moe_config(GateKind::mlp)), ModelFormat::llama_moe},
        Case{"Mixtral", small_mixtral_config(), ModelFormat::mixtral},
        Case{"ResidualMlp", small_residual_config(GateKind::mlp), ModelFormat::llama_moe},
        Case{"ResidualLinear", small_residual_config(GateKind::linear), ModelFormat::llama_moe},
        Case{"V2", small_v2_config(false, 0), ModelFormat::llama_moe_v2},
        Case{"V2Shared", small_v2_config(false, 5), ModelFormat::llama_moe_v2},
        Case{"V2Contract", small_v2_config(true, 0), ModelFormat::llama_moe_v2},
        Case{"V2SharedContract", small_v2_config(true, 5), ModelFormat::llama_moe_v2},
        Case{"V2AttentionHeads",
             with_attention(small_v2_config(false, 0), AttentionExpert::heads, 2, 1, 1.25),
             ModelFormat::llama_moe_v2},
        Case{"V2AttentionFiner",
             with_attention(small_v2_config(true, 5), AttentionExpert::heads, 4, 3, 4),
             ModelFormat::llama_moe_v2},
        Case{"NativeAttentionAlone",
             with_attention(small_dense_config(), AttentionExpert::queries, 2, 1, 3),
             ModelFormat::native},
        Case{"NativeAttentionOfWideHeads",
             with_attention(everything_config(), AttentionExpert::heads, 1, 1, 2),
             ModelFormat::native},
        Case{"NativeAttentionOfSomeLayers", attention_of_some_layers(), ModelFormat::native},
        Case{"NativeDense", tied(small_dense_config()), ModelFormat::native},
        Case{"NativeEverything", everything_config(), ModelFormat::native},
        Case{"NativeMlp", tied(small_moe_config(GateKind::mlp)), ModelFormat::native}),
    [](const auto& row) { return row.param.what; });

TEST(WriteModel, WritesTheFixturesOfTransformersBitForBit) {
  TestFolder folder;
  for (const char* name : {"llama", "llama3", "mixtral"}) {
    const ModelFolder model(fixture(name));
    WriteOptions options;
    options.format = model.format();
    options.dtype = model.stored_dtype();
    write_model(folder / name, model.config(), options, rows_of(model, model.stored_dtype()));
    const SafetensorsFile ours(folder / name / "model.safetensors");
    const SafetensorsFile theirs(fixture(name) / "model.safetensors");
    EXPECT_EQ(ours.entries().size(), theirs.entries().size());
    for (const SafetensorsEntry& e : theirs.entries()) {
      const auto a = ours.bytes(e.name), b = theirs.bytes(e.name);
      EXPECT_EQ(ours.entry(e.name).shape, e.shape);
      EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << e.name;
    }
  }
}

TEST(WriteModel, MixtralHoldsTheScoreScaleInW2) {
  TestFolder folder;
  ModelConfig config = small_mixtral_config();
  config.moe.score_scale = {4, 1.3};
  const RandomModel model(config, DType::f32);
  WriteOptions options;
  options.format = ModelFormat::mixtral;
  options.dtype = DType::bf16;
  write_model(folder / "m", config, options, model.rows());
  const ModelFolder read(folder / "m");
  EXPECT_THAT(read.config().moe.score_scale, ElementsAre(1, 1));
  for (int layer = 0; layer < 2; ++layer) {
    const std::string experts = str("layers.", layer, ".experts.");
    const Tensor down = model.at(experts + "down.weight");
    const Tensor got = read.read(experts + "down.weight", DType::bf16);
    const auto scale = float(config.moe.score_scale[std::size_t(layer)]);
    for (std::int64_t i = 0; i < down.size(); ++i)
      ASSERT_EQ(got.data<bf16>()[i].bits, bf16(down.data<float>()[i] * scale).bits);
    EXPECT_TRUE(same_bits(read.read(experts + "up.weight", DType::bf16),
                          scaled_to(model.at(experts + "up.weight"), 1, DType::bf16, "up")));
  }
}

TEST(WriteModel, TakesTransposedRowsAsTheyAreAndStillScalesThem) {
  TestFolder folder;
  ModelConfig config = small_mixtral_config();
  config.moe.score_scale = {2, 3};
  const RandomModel model(config, DType::f32);
  WriteOptions options;
  options.format = ModelFormat::mixtral;
  options.dtype = DType::f32;
  write_model(folder / "usual", config, options, model.rows());
  int asked = 0;
  options.transposed_rows = [&](const std::string& name, std::int64_t first, std::int64_t count) {
    if (++asked % 2 == 0) return Tensor{};
    const Tensor rows = model.at(name).slice(first, count);
    const Tensor columns = Tensor::empty({rows.cols(), count}, DType::f32);
    transpose_words(rows.bytes(), rows.cols(), columns.bytes(), count, count, rows.cols(), 4);
    return columns;
  };
  write_model(folder / "transposed", config, options, model.rows());
  EXPECT_EQ(asked, 6);
  EXPECT_TRUE(read_file(folder / "usual" / "model.safetensors") ==
              read_file(folder / "transposed" / "model.safetensors"));
}

TEST(WriteModel, CutsShardsAndIndexesThem) {
  TestFolder folder;
  const ModelConfig config = small_moe_config(GateKind::mlp);
  const RandomModel model(config, DType::f32);
  WriteOptions options;
  options.dtype = DType::f32;
  options.max_shard_bytes = 700;
  write_model(folder / "m", config, options, model.rows());
  const auto names = names_in(folder / "m");
  EXPECT_FALSE(fs::exists(folder / "m" / "model.safetensors"));
  std::size_t shards = 0;
  for (const std::string& name : names) {
    if (!name.ends_with(".safetensors")) continue;
    ++shards;
    const SafetensorsFile file(folder / "m" / name);
    std::int64_t bytes = 0;
    for (const SafetensorsEntry& e : file.entries()) bytes += e.bytes;
    EXPECT_TRUE(bytes <= 700 || file.entries().size() == 1) << name;
  }
  EXPECT_GT(shards, 3u);
  EXPECT_TRUE(std::count(names.begin(), names.end(),
                         str("model-00001-of-", fmt::format("{:05}", shards), ".safetensors")));
  const ModelFolder read(folder / "m");
  std::int64_t total = 0;
  for (const auto& [name, tensor] : model.tensors()) {
    EXPECT_TRUE(same_bits(read.read(name, DType::f32), tensor)) << name;
    total += std::int64_t(tensor.nbytes());
  }
  for (const StoredParameter& p : computed_tensors(read.config(), read.format()))
    total += 4 * p.rows;
  EXPECT_THAT(read_file(folder / "m" / "model.safetensors.index.json"),
              HasSubstr(str("\"total_size\": ", total)));

  for (const std::string& name : names)
    if (name.starts_with("model-00001-of-")) fs::remove(folder / "m" / name);
  EXPECT_THROW(ModelFolder{folder / "m"}, InputError);
}

TEST(WriteModel, AsksForLargeMatricesInChunksAndTransposesThemWhole) {
  TestFolder folder;
  ModelConfig config = small_dense_config();
  config.layers = 1;
  config.hidden_size = 4096;
  config.intermediate_size = 4200;  // 69 MB in f32: more than a chunk
  config.vocab_size = 5000;
  WriteOptions options;
  options.format = ModelFormat::llama;
  options.dtype = DType::f32;
  std::int64_t most = 0;
  const auto value = [](std::int64_t row, std::int64_t col) { return float(row * 5003 + col); };
  write_model(
      folder / "m", config, options,
      [&](const std::string& name, std::int64_t first, std::int64_t count) {
        const bool norm = name.ends_with("norm.weight");
        const std::int64_t cols = norm ? 1 : name.ends_with("attention.o.weight") ? 8 : 4096;
        const Tensor t = Tensor::empty(norm ? Shape{count} : Shape{count, cols}, DType::f32);
        most = std::max(most, std::int64_t(t.nbytes()));
        for (std::int64_t i = 0; i < t.size(); ++i)
          t.data<float>()[i] = value(first + i / cols, i % cols);
        return t;
      });
  EXPECT_LE(most, 64 << 20);
  const ModelFolder read(folder / "m");
  for (const char* name : {"layers.0.ffn.down.weight", "embed.weight"}) {
    const Tensor t = read.read(name, DType::f32), wide = read.read(name, DType::f64);
    for (std::int64_t r = 0; r < t.rows(); r += 17)
      for (std::int64_t c = 0; c < 4096; c += 31) {
        ASSERT_EQ(t.data<float>()[r * 4096 + c], value(r, c)) << name << " " << r << " " << c;
        ASSERT_EQ(wide.data<double>()[r * 4096 + c], value(r, c)) << name << " " << r << " " << c;
      }
  }
}

TEST(WriteModel, CopiesTheTokenizerThatIsThere) {
  TestFolder folder;
  fs::create_directories(folder / "source");
  for (const char* name : {"tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                           "generation_config.json", "unrelated.txt", "modeling_llama_moe_hf.py"})
    write_file(folder / "source" / name, name);
  const ModelConfig config = small_mixtral_config();
  const RandomModel model(config, DType::bf16);
  WriteOptions options;
  options.tokenizer_from = folder / "source";
  options.format = ModelFormat::mixtral;
  write_model(folder / "mixtral", config, options, model.rows());
  EXPECT_THAT(names_in(folder / "mixtral"),
              UnorderedElementsAre("config.json", "model.safetensors", "tokenizer.model",
                                   "tokenizer_config.json", "special_tokens_map.json",
                                   "generation_config.json"));
  EXPECT_EQ(read_file(folder / "mixtral" / "tokenizer.model"), "tokenizer.model");
  options.format = ModelFormat::llama_moe;
  write_model(folder / "llama-moe", config, options, model.rows());
  EXPECT_TRUE(fs::exists(folder / "llama-moe" / "modeling_llama_moe_hf.py"));

  options.tokenizer_from = folder / "none";
  EXPECT_THAT(input_error_of([&] { write_model(folder / "x", config, options, model.rows()); }),
              HasSubstr("none"));
}

class WriteModelOver : public ::testing::Test {
 protected:
  TestFolder folder_;
  ModelConfig config_ = small_mixtral_config();
  RandomModel model_{config_, DType::bf16};
  fs::path target_ = folder_ / "out";

  std::int64_t write(bool force, const ParameterRows& rows) {
    WriteOptions options;
    options.force = force;
    return write_model(target_, config_, options, rows).bytes;
  }
  std::string refusal(bool force) {
    return input_error_of([&] { write(force, model_.rows()); });
  }
};

TEST_F(WriteModelOver, NeedsForceToReplaceAModel) {
  write(false, model_.rows());
  write_file(target_ / "old", "x");
  EXPECT_THAT(refusal(false), AllOf(HasSubstr(target_.string()), HasSubstr("--force")));
  EXPECT_TRUE(fs::exists(target_ / "old"));
  write(true, model_.rows());
  EXPECT_FALSE(fs::exists(target_ / "old"));
  EXPECT_NO_THROW(ModelFolder{target_});
  EXPECT_THAT(names_in(folder_.path()), ElementsAre("out"));
}

TEST_F(WriteModelOver, NeverReplacesWhatIsNoModelFolder) {
  fs::create_directories(target_ / "sub");
  write_file(target_ / "thesis.txt", "x");
  EXPECT_THAT(refusal(true), HasSubstr("no model folder"));
  write_file(target_ / "config.json", "{}");
  EXPECT_THAT(refusal(true), HasSubstr("holds a folder (sub)"));
  EXPECT_TRUE(fs::exists(target_ / "thesis.txt"));
  fs::remove_all(target_);
  write_file(target_, "a file");
  EXPECT_THAT(refusal(true), HasSubstr("is no folder"));
}

TEST_F(WriteModelOver, FailureLeavesTheOldModelAndNothingElse) {
  write(false, model_.rows());
  const std::string before = read_file(target_ / "model.safetensors");
  int asked = 0;
  const auto failing = [&](const std::string& name, std::int64_t first, std::int64_t count) {
    if (++asked == 7) throw Error("the source failed");
    return model_.at(name).slice(first, count);
  };
  EXPECT_THROW(write(true, failing), Error);
  EXPECT_EQ(asked, 7);
  EXPECT_EQ(read_file(target_ / "model.safetensors"), before);
  EXPECT_THAT(names_in(folder_.path()), ElementsAre("out"));
  fs::remove_all(target_);
  asked = 0;
  EXPECT_THROW(write(false, failing), Error);
  EXPECT_THAT(names_in(folder_.path()), IsEmpty());
}

TEST_F(WriteModelOver, FilesOfTheCallerAreInTheFolderOrNothingIs) {
  WriteOptions options;
  options.more_files = [](const fs::path& to) { write_file(to / "more.txt", "1234567"); };
  std::int64_t size = 0;
  const std::int64_t bytes = write_model(target_, config_, options, model_.rows()).bytes;
  for (const auto& item : fs::directory_iterator(target_)) size += std::int64_t(item.file_size());
  EXPECT_EQ(bytes, size);
  EXPECT_EQ(read_file(target_ / "more.txt"), "1234567");
  EXPECT_NO_THROW(ModelFolder{target_});
  options.force = true;
  options.more_files = [](const fs::path&) { throw Error("the caller failed"); };
  EXPECT_THROW(write_model(target_, config_, options, model_.rows()), Error);
  EXPECT_EQ(read_file(target_ / "more.txt"), "1234567");
  EXPECT_THAT(names_in(folder_.path()), ElementsAre("out"));
}

TEST_F(WriteModelOver, RefusesRowsOfTheWrongShape) {
  const auto wrong = [&](const std::string& name, std::int64_t, std::int64_t) {
    return model_.at(name).slice(0, 1);
  };
  EXPECT_THROW(write(false, wrong), Error);
  EXPECT_THAT(names_in(folder_.path()), IsEmpty());
}

TEST_F(WriteModelOver, AcceptsATrailingSlashAndMissingParents) {
  target_ = folder_ / "a" / "b" / "";
  write(false, model_.rows());
  EXPECT_NO_THROW(ModelFolder{folder_ / "a" / "b"});
  EXPECT_THAT(names_in(folder_ / "a"), ElementsAre("b"));
}

TEST_F(WriteModelOver, AcceptsAPathRelativeToTheCurrentFolder) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_.path());
  target_ = "plain";
  EXPECT_NO_THROW(write(false, model_.rows()));
  fs::current_path(before);
  EXPECT_NO_THROW(ModelFolder{folder_ / "plain"});
}

TEST_F(WriteModelOver, MayReplaceTheModelItReads) {
  write(false, model_.rows());
  const ModelFolder model(target_);
  write(true, rows_of(model, DType::bf16));
  for (const auto& [name, tensor] : model_.tensors())
    EXPECT_TRUE(same_bits(ModelFolder(target_).read(name, DType::bf16), tensor)) << name;
}

TEST_F(WriteModelOver, RefusesWhatTheFormatCannotHoldBeforeAskingForRows) {
  config_ = small_moe_config(GateKind::mlp);
  WriteOptions options;
  options.format = ModelFormat::mixtral;
  EXPECT_THAT(input_error_of([&] {
                write_model(target_, config_, options,
                            [](const std::string&, std::int64_t, std::int64_t) -> Tensor {
                              throw Error("asked");
                            });
              }),
              HasSubstr("--gate linear"));
  EXPECT_FALSE(fs::exists(target_));
}

TEST_F(WriteModelOver, NamesTheTensorThatOverflowsHalfPrecision) {
  WriteOptions options;
  options.dtype = DType::f16;
  const auto huge = [&](const std::string& name, std::int64_t first, std::int64_t count) {
    Tensor t = scaled_to(model_.at(name).slice(first, count), 1, DType::f32, name);
    if (name == "layers.1.attention.v.weight") t.data<float>()[0] = 1e6f;
    return t;
  };
  EXPECT_THAT(input_error_of([&] { write_model(target_, config_, options, huge); }),
              HasSubstr("model.layers.1.self_attn.v_proj.weight"));
  EXPECT_THAT(names_in(folder_.path()), IsEmpty());
}

TEST(WriteModel, LlamaMoeHoldsRotaryFrequenciesThatNobodyNeedsInReading) {
  TestFolder folder;
  const ModelConfig config = small_moe_config(GateKind::mlp);
  const RandomModel model(config, DType::bf16);
  WriteOptions options;
  options.dtype = DType::f32;
  write_model(folder / "m", config, options, model.rows());
  {
    const SafetensorsFile file(folder / "m" / "model.safetensors");
    const Tensor t = file.read("model.layers.1.self_attn.rotary_emb.inv_freq");
    ASSERT_EQ(t.shape(), (Shape{config.head_dim / 2}));
    for (std::int64_t j = 0; j < t.size(); ++j)
      EXPECT_NEAR(t.data<float>()[j],
                  std::pow(config.rope_theta, -2.0 * double(j) / double(config.head_dim)), 1e-7);
  }
  EXPECT_NO_THROW(ModelFolder{folder / "m"});
  edit_tensors(folder / "m",
               [](SafetensorsWriter::Declaration& d) { return !d.name.ends_with(".inv_freq"); });
  EXPECT_NO_THROW(ModelFolder{folder / "m"});
}

TEST(ModelFolder, IgnoresNoiseWithoutUse) {
  TestFolder folder;
  const ModelConfig config = small_moe_config(GateKind::mlp);
  const RandomModel model(config, DType::bf16);
  write_model(folder / "m", config, WriteOptions{}, model.rows());
  replace_in_file(folder / "m" / "config.json", "\"gate_add_noise\": true",
                  "\"gate_add_noise\": false");
  EXPECT_FALSE(ModelFolder(folder / "m").config().moe.gate_noise);
}

}  // namespace
}  // namespace moe::testing
