// SPDX-License-Identifier: Apache-2.0
// A run of several stages: one after the other, resumable anywhere, refused before it begins.
#include "train/stages.h"

#include <gmock/gmock.h>

#include "config/yaml_flat.h"
#include "data/tokenizer.h"
#include "train/checkpoint_diff.h"
#include "train/checkpoint_folders.h"
#include "train/run_fixture.h"
#include "train/training_state.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Stages : public testing::RunFixture {
 protected:
  /// Domain a for `first` steps, then domain b in another length with frozen norms.
  TrainConfig staged(const std::string& run, std::int64_t first, std::int64_t second,
                     const std::vector<std::string>& overrides = {}) const {
    const std::string text =
        str("run: {folder: ", (folder_ / run).string(), ", log_every: 1000}\n",
            "model: {vocab_size: 40, hidden_size: 16, intermediate_size: 20, layers: 2, heads: 4, "
            "kv_heads: 2, experts: 4, top_k: 2, gate: mlp}\n",
            "data: {sequence_length: 12}\n", "batch: {global: 8, micro: 2}\n",
            "parallel: {expert: 2}\n", "train: {checkpoint_every: 2}\n",
            "optimizer: {learning_rate: 0.01}\nschedule: {kind: constant, warmup_steps: 2}\n",
            "router: {cv_squared: 0.01}\n", "stages:\n", "  - name: general\n",
            "    export: llama-moe\n", "    data: {train: [{domain: a, files: [",
            (folder_ / "a.h5").string(), "]}]}\n", "    train: {steps: ", first, "}\n",
            "  - name: code\n", "    export: llama-moe\n",
            "    data: {sequence_length: 8, train: [{domain: b, files: [",
            (folder_ / "b.h5").string(), "]}]}\n", "    train: {steps: ", second,
            ", freeze: [norms]}\n", "    optimizer: {learning_rate: 0.003}\n");
    return parse_train_config(text, "test.yaml", overrides);
  }

  /// Trains until `steps` steps of this call are done on rank 0, or to the end.
  static RunEnd run(const TrainConfig& c, const std::string& resume = "none",
                    std::int64_t steps = 1000, const std::vector<std::string>& faults = {},
                    bool selfcheck = false) {
    RunEnd end = RunEnd::complete;
    run_ranks(2, [&](Communicator& world) {
      StartOptions start;
      start.resume = resume;
      start.selfcheck = selfcheck;
      for (const std::string& f : faults) start.faults.push_back(parse_fault(f));
      std::int64_t done = 0;
      start.stop_requested = [&done, steps] { return ++done >= steps; };
      const RunEnd mine = train_run(c, start, world);
      if (world.rank() == 0) end = mine;
    });
    return end;
  }

  static std::string error_of(const TrainConfig& c, const std::string& resume = "none") {
    try {
      run(c, resume);
    } catch (const InputError& e) {
      return e.what();
    }
    return "none";
  }

  static std::string bytes_of(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::string exported(const std::string& stage) const {
    return bytes_of(folder_ / stage / "model/model.safetensors");
  }
};

TEST_F(Stages, AreRunsOfTheirOwnEachFromTheEndOfTheOneBefore) {
  const TrainConfig c = staged("run", 4, 3);
  EXPECT_EQ(run(c), RunEnd::complete);

  TrainConfig first = c.of_stage(0), second = c.of_stage(1);
  first.run.folder = (folder_ / "first").string();
  train(2, first);
  second.run.folder = (folder_ / "second").string();
  second.model.init_from = (folder_ / "first").string();
  train(2, second);
  EXPECT_TRUE(diff_checkpoints(checkpoint("run/general", 4), checkpoint("first", 4)).empty());
  EXPECT_TRUE(diff_checkpoints(checkpoint("run/code", 3), checkpoint("second", 3)).empty());
  EXPECT_EQ(curve("run/general").size(), 4u);
  EXPECT_EQ(curve("run/code").size(), 3u);
  EXPECT_EQ(curve("run/code").back()[3], 0.003);
  EXPECT_FALSE(checkpoint("run/code", 3).has("adam_m/norm.weight"));
  EXPECT_TRUE(checkpoint("run/general", 4).has("adam_m/norm.weight"));
}

TEST_F(Stages, StoppedAnywhereAndResumedEndInTheSameWeights) {
  ASSERT_EQ(run(staged("straight", 4, 3)), RunEnd::complete);
  const TrainConfig c = staged("stopped", 4, 3);
  ASSERT_EQ(run(c, "none", 3), RunEnd::interrupted);  // in the first stage
  EXPECT_FALSE(fs::exists(folder_ / "stopped/general/model"));
  ASSERT_EQ(run(c, "auto", 2), RunEnd::interrupted);  // the first step of the second
  EXPECT_TRUE(fs::exists(folder_ / "stopped/general/model"));
  ASSERT_EQ(run(c, "auto", 1), RunEnd::interrupted);  // in the second
  ASSERT_EQ(run(c, "auto"), RunEnd::complete);
  for (const auto& [stage, steps] : {std::pair("general", 4), std::pair("code", 3)}) {
    EXPECT_TRUE(diff_checkpoints(checkpoint(str("stopped/", stage), steps),
                                 checkpoint(str("straight/", stage), steps))
                    .empty());
    EXPECT_EQ(exported(str("stopped/", stage)), exported(str("straight/", stage)));
    EXPECT_FALSE(exported(str("stopped/", stage)).empty());
  }
  EXPECT_NE(exported("straight/general"), exported("straight/code"));
}

TEST_F(Stages, KilledBetweenTwoOrInAnExportTheRunGoesOn) {
  const TrainConfig c = staged("run", 2, 2);
  run(c);
  const std::string general = exported("run/general"), code = exported("run/code");
  // As a kill leaves it: the first stage's end saved, its export half written.
  fs::remove_all(folder_ / "run/code");
  fs::remove_all(folder_ / "run/general/model");
  fs::create_directories(folder_ / "run/general/model.partial-123");
  EXPECT_EQ(run(c, "auto"), RunEnd::complete);
  EXPECT_FALSE(fs::exists(folder_ / "run/general/model.partial-123"));
  EXPECT_EQ(exported("run/general"), general);
  EXPECT_EQ(exported("run/code"), code);
  EXPECT_EQ(curve("run/general").size(), 2u);  // and was not trained again
  fs::remove_all(folder_ / "run/code/model");
  EXPECT_EQ(run(c, "auto"), RunEnd::complete);
  EXPECT_EQ(exported("run/code"), code);
}

TEST_F(Stages, TheOptimizerBeginsAnewUnlessItIsKept) {
  run(staged("fresh", 4, 2));
  run(staged("kept", 4, 2, {"stages.1.keep_optimizer=true"}));
  EXPECT_EQ(optimizer_steps_in(checkpoint("fresh/code", 2)), 2);
  EXPECT_EQ(optimizer_steps_in(checkpoint("kept/code", 2)), 6);
  EXPECT_FALSE(diff_checkpoints(checkpoint("fresh/code", 2), checkpoint("kept/code", 2)).empty());
  // The moments that the second stage begins with are those that the first ended with: two steps of
  // decay leave most of the second moment.
  const auto v = [&](const std::string& run, int step) {
    return checkpoint(run, step).read("adam_v/layers.0.attention.q.weight", 0, 16);
  };
  double kept = 0, fresh = 0, before = 0;
  for (std::int64_t i = 0; i < 16 * 16; ++i) {
    before += v("kept/general", 4).data<float>()[i];
    kept += v("kept/code", 2).data<float>()[i];
    fresh += v("fresh/code", 2).data<float>()[i];
  }
  EXPECT_GT(kept, fresh + 0.8 * before);
}

TEST_F(Stages, KeptOptimizersResumeToTheLastBit) {
  const std::vector<std::string> keep = {"stages.1.keep_optimizer=true"};
  run(staged("straight", 2, 4, keep));
  run(staged("stopped", 2, 4, keep), "none", 5);
  run(staged("stopped", 2, 4, keep), "auto");
  EXPECT_TRUE(
      diff_checkpoints(checkpoint("stopped/code", 4), checkpoint("straight/code", 4)).empty());
}

TEST_F(Stages, AFaultMayBeOfOneStage) {
  run(staged("run", 3, 3), "none", 1000, {"nan:rank=0,step=2,stage=code"});
  std::map<std::string, int> skipped;
  for (const std::string stage : {"general", "code"}) {
    std::ifstream in(folder_ / "run" / stage / "metrics.jsonl");
    for (std::string line; std::getline(in, line);)
      skipped[stage] += nlohmann::json::parse(line).contains("skipped");
  }
  EXPECT_EQ(skipped["general"], 0);
  EXPECT_EQ(skipped["code"], 1);
  try {
    run(staged("other", 3, 3), "none", 1000, {"nan:rank=0,step=2,stage=maths"});
    FAIL();
  } catch (const InputError& e) {
    EXPECT_THAT(e.what(), HasSubstr("the run has no stage maths"));
  }
}

TEST_F(Stages, AreAllCheckedBeforeTheFirstBegins) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{str("stages.1.data.train.0.files=[", (folder_ / "none.h5").string(), "]")}, "stage code: "},
      {{"stages.1.data.train.0.max_epochs=1", "stages.1.train.steps=1000"}, "stage code: "},
      {{"stages.1.train.freeze=[shared]"},
       "stage code: train.freeze: the model has no parameters of the family shared"},
      {{"stages.1.batch.global=7"}, "stage code: batch.global is 7 sequences"},
      {{"stages.1.export=gguf"}, "stage code: unknown model format 'gguf'"},
      {{"stages.1.export=mixtral"}, "stage code: "},
  };
  for (const auto& [overrides, message] : cases) {
    EXPECT_THAT(error_of(staged("run", 2, 2, overrides)), HasSubstr(message));
    EXPECT_FALSE(fs::exists(folder_ / "run")) << message;
  }
}

TEST_F(Stages, DataOfAnotherTokenizerIsRefusedBeforeTheFirstBegins) {
  const auto write = [&](const char* name, const std::string& hash) {
    TokenFileInfo info;
    info.domain = "b";
    info.vocabulary_size = 40;
    info.tokenizer_hash = hash;
    TokenWriter writer(info, folder_);
    for (int d = 0; d < 40; ++d) writer.append(std::vector<std::int32_t>(20, d));
    writer.write(folder_ / name);
  };
  write("a.h5", "00000000000000aa");
  write("b.h5", "00000000000000bb");
  EXPECT_THAT(error_of(staged("run", 2, 2)),
              HasSubstr("b.h5: made by another tokenizer (00000000000000bb) than"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));

  write("b.h5", "00000000000000aa");
  const std::string tokenizer = MOE_SOURCE_DIR "/tests/data/tokenizers/byte_fallback.json";
  EXPECT_THAT(error_of(staged("run", 2, 2, {"model.tokenizer=" + tokenizer})),
              HasSubstr(str("stage general: ", (folder_ / "a.h5").string(),
                            ": made by another tokenizer (00000000000000aa) than ", tokenizer)));
  write("a.h5", Tokenizer::open(tokenizer).hash());
  write("b.h5", Tokenizer::open(tokenizer).hash());
  EXPECT_EQ(run(staged("run", 2, 2, {"model.tokenizer=" + tokenizer})), RunEnd::complete);
}

TEST_F(Stages, WhatAnotherEndBeganIsNotTakenForTheRunsOwn) {
  run(staged("run", 2, 2));
  EXPECT_THAT(error_of(staged("run", 2, 2)), HasSubstr("a run lies here already"));
  EXPECT_THAT(
      error_of(staged("run", 4, 2), "auto"),
      HasSubstr("stage code has been trained, but stage general before it is not complete"));
  fs::rename(folder_ / "run/code", folder_ / "code");
  run(staged("run", 4, 2), "auto");  // a longer first stage, and its second
  const std::string longer = exported("run/general");
  fs::remove_all(folder_ / "run/code");
  fs::rename(folder_ / "code", folder_ / "run/code");
  EXPECT_THAT(error_of(staged("run", 4, 2), "auto"), HasSubstr("but stage general ends with"));

  EXPECT_THAT(error_of(staged("run", 4, 2), (folder_ / "run/general").string()),
              HasSubstr("a run with stages goes on with --resume auto"));
  EXPECT_EQ(run(staged("run", 4, 2, {"run.overwrite=true"})), RunEnd::complete);
  EXPECT_EQ(exported("run/general"), longer);
  EXPECT_EQ(checkpoint("run/code", 2).step(), 2);
}

TEST_F(Stages, OverwritingLeavesNothingOfTheStagesOfBefore) {
  run(staged("run", 2, 2));
  ASSERT_EQ(run(staged("run", 4, 2, {"run.overwrite=true"}), "none", 1), RunEnd::interrupted);
  EXPECT_TRUE(checkpoint_folders(folder_ / "run/code/checkpoints").empty());
  EXPECT_FALSE(fs::exists(folder_ / "run/code/model"));
  EXPECT_FALSE(fs::exists(folder_ / "run/general/model"));
}

TEST_F(Stages, ASelfcheckChecksEveryStage) {
  EXPECT_EQ(run(staged("run", 1, 1), "none", 1000, {}, true), RunEnd::complete);
}

TEST_F(Stages, TheWholeConfigurationIsSavedAndGivesTheRunAgain) {
  run(staged("run", 2, 2));
  const TrainConfig saved = load_train_config(folder_ / "run/config.yaml");
  EXPECT_EQ(to_yaml(saved), to_yaml(staged("run", 2, 2)));
  EXPECT_EQ(plan_stages(saved).size(), 2u);
  EXPECT_EQ(plan_stages(saved)[1].config.train.freeze, std::vector<std::string>{"norms"});
}

}  // namespace
}  // namespace moe
