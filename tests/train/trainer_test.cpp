// SPDX-License-Identifier: Apache-2.0
// Stop and resume, on the same layout and on another.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/log.h"
#include "core/rng.h"
#include "data/token_writer.h"
#include "train/checkpoint_diff.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) /
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    for (const char* domain : {"a", "b"}) write_shard(domain);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write_shard(const std::string& domain) {
    TokenFileInfo info;
    info.domain = domain;
    info.vocabulary_size = 40;
    TokenWriter writer(info, folder_);
    const Philox random(1, RandomPurpose::test, {std::uint64_t(domain[0])});
    for (std::uint64_t d = 0; d < 40; ++d) {
      std::vector<std::int32_t> document;
      for (std::uint64_t i = 0; i < 10 + d; ++i)
        document.push_back(std::int32_t(random.below(100 * d + i, 40)));
      writer.append(document);
    }
    writer.write(folder_ / (domain + ".h5"));
  }

  TrainConfig config(const std::string& run, std::int64_t steps, std::int64_t ep) const {
    const std::string text = str(
        "run: {folder: ", (folder_ / run).string(), ", log_every: 1000}\n",
        "model: {vocab_size: 40, hidden_size: 16, intermediate_size: 20, layers: 2, heads: 4, "
        "kv_heads: 2, experts: 4, top_k: 2, gate: mlp}\n",
        "data: {sequence_length: 12, train: [{domain: a, files: [", (folder_ / "a.h5").string(),
        "], weight: 0.3}, {domain: b, files: [", (folder_ / "b.h5").string(),
        "], weight: 0.7}], held_out: [{domain: a, files: [", (folder_ / "a.h5").string(), "]}]}\n",
        "batch: {global: 8, micro: 2}\nparallel: {expert: ", ep, "}\n", "train: {steps: ", steps,
        ", checkpoint_every: 20, eval_every: 10, eval_sequences: 5}\n",
        "optimizer: {learning_rate: 0.01}\nschedule: {kind: constant, warmup_steps: 5}\n",
        "router: {cv_squared: 0.01, z: 0.001}\n");
    return parse_train_config(text, "test.yaml");
  }

  void train(int ranks, const TrainConfig& c, const std::string& resume = "none") const {
    run_ranks(ranks, [&](Communicator& world) {
      StartOptions start;
      start.resume = resume;
      Trainer(c, start, world).run();
    });
  }

  /// Loss, held-out loss and gradient norm of every step, as written: every bit.
  std::vector<std::vector<double>> curve(const std::string& run) const {
    std::ifstream in(folder_ / run / "metrics.jsonl");
    std::vector<std::vector<double>> rows;
    for (std::string line; std::getline(in, line);) {
      const auto m = nlohmann::json::parse(line);
      rows.push_back({m.at("step"), m.at("loss"), m.at("grad_norm"), m.at("learning_rate"),
                      m.contains("held_out_loss") && !m.at("held_out_loss").empty()
                          ? m.at("held_out_loss").at("a").get<double>()
                          : 0.0});
    }
    return rows;
  }

  CheckpointReader checkpoint(const std::string& run, int step) const {
    return CheckpointReader(folder_ / run / "checkpoints" / fmt::format("step-{:08}", step));
  }

  fs::path folder_;
};

TEST_F(TrainerTest, StoppedAndResumedEqualsStraightToTheLastBit) {
  train(2, config("straight", 40, 2));
  train(2, config("stopped", 20, 2));
  train(2, config("stopped", 40, 2), "auto");
  EXPECT_EQ(curve("straight").size(), 40u);
  EXPECT_EQ(curve("stopped"), curve("straight"));
  EXPECT_TRUE(diff_checkpoints(checkpoint("stopped", 40), checkpoint("straight", 40)).empty());
  EXPECT_LT(curve("straight").back()[1], curve("straight").front()[1]);
}

TEST_F(TrainerTest, ResumesOnAnotherLayoutWithTheSameLosses) {
  train(2, config("dp2", 20, 1));  // EP 1 x DP 2
  TrainConfig other = config("done", 20, 2);
  const std::string from = (folder_ / "dp2/checkpoints/step-00000020").string();
  train(2, other, from);  // nothing left to do
  EXPECT_FALSE(fs::exists(folder_ / "done/checkpoints"));

  train(2, config("dp2", 40, 1), "auto");
  train(2, config("ep2", 40, 2), from);
  const auto same = curve("dp2"), elastic = curve("ep2");
  ASSERT_EQ(elastic.size(), 20u);
  for (std::size_t i = 0; i < 20; ++i)
    EXPECT_NEAR(elastic[i][1], same[20 + i][1], 1e-6) << "step " << same[20 + i][0];
}

TEST_F(TrainerTest, SavingAgainOnAnotherLayoutGivesTheSameCheckpoint) {
  train(2, config("first", 20, 1));
  const std::string from = (folder_ / "first/checkpoints/step-00000020").string();
  for (const int ep : {1, 2, 4}) {
    const std::string run = str("again", ep);
    run_ranks(4, [&](Communicator& world) {
      StartOptions start;
      start.resume = from;
      Trainer(config(run, 20, ep), start, world).save();
    });
    EXPECT_TRUE(diff_checkpoints(checkpoint(run, 20), checkpoint("first", 20)).empty())
        << "EP " << ep << " x DP " << 4 / ep;
  }
}

TEST_F(TrainerTest, GoingBackPutsLaterCheckpointsAside) {
  train(1, config("run", 40, 1));
  train(1, config("run", 21, 1), (folder_ / "run/checkpoints/step-00000020").string());
  EXPECT_EQ(latest_checkpoint(folder_ / "run/checkpoints")->filename(), "step-00000021");
  EXPECT_TRUE(is_checkpoint(folder_ / "run/checkpoints/abandoned-step-00000040"));
  EXPECT_EQ(curve("run").size(), 21u);
}

TEST_F(TrainerTest, ModelSettingsHoldOnResumeToo) {
  train(1, config("run", 20, 1));
  TrainConfig c = config("run", 22, 1);
  c.model.top_k = 1;
  train(1, c, "auto");
  EXPECT_EQ(checkpoint("run", 22).model_config().moe.top_k, 1);
  c = config("run", 24, 1);
  c.model.layers = 3;
  EXPECT_THROW(train(1, c, "auto"), InputError);
}

TEST_F(TrainerTest, InitFromTakesWeightsAlone) {
  train(1, config("first", 20, 1));
  TrainConfig c = config("second", 20, 1);
  c.model = {};
  c.model.init_from = (folder_ / "first").string();
  run_ranks(1, [&](Communicator& world) {
    Trainer trainer(c, {}, world);
    EXPECT_EQ(trainer.steps_done(), 0);
    EXPECT_EQ(trainer.engine().optimizer().steps(), 0);
    const Tensor norm = trainer.engine().parameters()["norm.weight"].value;
    const Tensor saved = checkpoint("first", 20).read("weights/norm.weight", 0, 16);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(norm.data<float>()[i], saved.data<float>()[i]);
  });
}

TEST_F(TrainerTest, RefusesWhatCannotBe) {
  const auto message = [&](int ranks, const TrainConfig& c, const std::string& resume = "none") {
    try {
      train(ranks, c, resume);
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(message(4, config("x", 1, 3)).find("parallel.expert is 3"), std::string::npos);
  EXPECT_NE(message(3, config("x", 1, 1)).find("batch.global is 8"), std::string::npos);
  TrainConfig many = config("x", 1, 8);
  EXPECT_NE(message(8, many).find("4 experts"), std::string::npos);
  train(1, config("x", 1, 1));
  EXPECT_NE(message(1, config("x", 1, 1)).find("a run lies here already"), std::string::npos);
  EXPECT_NE(message(1, config("y", 1, 1), (folder_ / "nowhere").string()), "");
}

}  // namespace
}  // namespace moe
