// SPDX-License-Identifier: Apache-2.0
// Stop and resume, on the same layout and on another.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include "train/checkpoint_diff.h"
#include "train/run_fixture.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using TrainerTest = testing::RunFixture;

TEST_F(TrainerTest, StoppedAndResumedEqualsStraightToTheLastBit) {
  train(2, config("straight", 40, 2));
  train(2, config("stopped", 20, 2));
  train(2, config("stopped", 40, 2), "auto");
  EXPECT_EQ(curve("straight").size(), 40u);
  EXPECT_EQ(curve("stopped"), curve("straight"));
  EXPECT_TRUE(diff_checkpoints(checkpoint("stopped", 40), checkpoint("straight", 40)).empty());
  EXPECT_LT(curve("straight").back()[1], curve("straight").front()[1]);
}

TEST_F(TrainerTest, RoutersResumeToTheLastBit) {
  const auto job = [&](const std::string& run, std::int64_t steps) {
    TrainConfig c = config(run, steps, 2);
    c.router.cv_squared = 0;
    c.router.switch_top_k = 0.1;
    c.router.scope = BalanceScope::global_batch;
    c.router.bias_update_rate = 0.01;
    c.router.capacity_factor = 1.25;
    c.router.noise_anneal_steps = 30;
    return c;
  };
  train(2, job("straight", 40));
  train(2, job("stopped", 20));
  train(2, job("stopped", 40), "auto");
  EXPECT_EQ(curve("stopped"), curve("straight"));
  const CheckpointReader half = checkpoint("straight", 20), end = checkpoint("straight", 40);
  EXPECT_TRUE(diff_checkpoints(checkpoint("stopped", 40), end).empty());
  const auto differ = [](const Tensor& a, const Tensor& b) {
    return std::memcmp(a.bytes(), b.bytes(), a.nbytes()) != 0;
  };
  const char* counts = "router/previous_counts";
  EXPECT_TRUE(differ(half.read(counts, 0, 2), end.read(counts, 0, 2)));
  // After as many steps in either direction a bias may be back where it was, so it is held
  // against zero.
  const Tensor bias = half.read("weights/layers.1.router.selection_bias", 0, 4);
  EXPECT_TRUE(differ(bias, Tensor::zeros({4}, DType::f32)));
  EXPECT_EQ(end.tensor("weights/layers.1.router.selection_bias").dtype, DType::f32);
  EXPECT_THROW((void)end.tensor("adam_m/layers.1.router.selection_bias"), InputError);
}

TEST_F(TrainerTest, ExpertsInTheAttentionResumeOnTheSameAndOnAnotherLayout) {
  for (const AttentionExpert kind : {AttentionExpert::queries, AttentionExpert::heads}) {
    const char* name = kind == AttentionExpert::queries ? "queries" : "heads";
    const auto job = [&](const std::string& run, std::int64_t steps, std::int64_t ep) {
      TrainConfig c = config(str(name, run), steps, ep);
      c.model.attention.kind = kind;
      c.model.attention.experts = 2;
      c.model.attention.top_k = 1;
      c.attention_router.cv_squared = 0;
      c.attention_router.switch_top_k = 0.02;
      c.attention_router.scope = BalanceScope::global_batch;
      c.attention_router.bias_update_rate = 0.01;
      c.data.packing.document_masks = true;
      return c;
    };
    train(2, job("straight", 40, 2));
    train(2, job("stopped", 20, 2));
    const std::string from =
        (folder_ / str(name, "stopped") / "checkpoints/step-00000020").string();
    train(2, job("stopped", 40, 2), "auto");
    const auto straight = curve(str(name, "straight"));
    EXPECT_EQ(curve(str(name, "stopped")), straight);
    EXPECT_TRUE(diff_checkpoints(checkpoint(str(name, "stopped"), 40),
                                 checkpoint(str(name, "straight"), 40))
                    .empty());
    train(1, job("elastic", 40, 1), from);
    const auto elastic = curve(str(name, "elastic"));
    ASSERT_EQ(elastic.size(), 20u);
    for (std::size_t i = 0; i < 20; ++i)
      EXPECT_NEAR(elastic[i][1], straight[20 + i][1], 1e-6) << "step " << straight[20 + i][0];
  }
}

TEST_F(TrainerTest, ASelectionBiasMayBeSwitchedOnInTheMiddle) {
  train(2, config("run", 20, 2));
  TrainConfig c = config("run", 40, 2);
  c.router.bias_update_rate = 0.01;
  train(2, c, "auto");
  EXPECT_EQ(curve("run").size(), 40u);
  EXPECT_EQ(checkpoint("run", 40).model_config().moe.selection_bias, true);
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
