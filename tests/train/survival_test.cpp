// SPDX-License-Identifier: Apache-2.0
// Runs that are told to stop, meet bad steps, go back, and what is left of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "train/checkpoint_diff.h"
#include "train/run_fixture.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

class SurvivalTest : public testing::RunFixture {
 protected:
  TrainConfig guarded(const std::string& run, std::int64_t steps, std::int64_t every) const {
    TrainConfig c = config(run, steps, 2);
    c.train.checkpoint_every = every;
    c.train.keep_last = 100;
    c.guard.max_skipped = 3;
    return c;
  }

  /// Trains until the given rank has been asked `asked` times whether to stop, then says yes there.
  RunEnd train_and_stop(int ranks, const TrainConfig& c, int rank, int asked,
                        const std::string& resume = "none",
                        const std::vector<std::string>& faults = {}) const {
    std::vector<RunEnd> ends(std::size_t(ranks), RunEnd::complete);
    run_ranks(ranks, [&](Communicator& world) {
      StartOptions start;
      start.resume = resume;
      for (const std::string& text : faults) start.faults.push_back(parse_fault(text));
      int times = 0;
      start.stop_requested = [&] { return world.rank() == rank && ++times >= asked; };
      ends[std::size_t(world.rank())] = Trainer(c, start, world).run();
    });
    for (const RunEnd e : ends) EXPECT_EQ(e, ends[0]) << "all ranks end alike";
    return ends[0];
  }

  std::vector<json> metrics(const std::string& run) const {
    std::ifstream in(folder_ / run / "metrics.jsonl");
    std::vector<json> rows;
    for (std::string line; std::getline(in, line);) rows.push_back(json::parse(line));
    return rows;
  }

  json state(const std::string& run, int step) const {
    return json::parse(checkpoint(run, step).state_json());
  }

  std::string failure_of(const TrainConfig& c, const std::vector<std::string>& faults) const {
    try {
      train(2, c, "none", faults);
    } catch (const Error& e) {
      return e.what();
    }
    return "no failure";
  }

  void expect_same_weights(const std::string& run, int a, int b) const {
    const CheckpointReader first = checkpoint(run, a), second = checkpoint(run, b);
    for (const CheckpointTensor& t : first.tensors()) {
      const Tensor x = first.read(t.name, 0, t.shape[0]), y = second.read(t.name, 0, t.shape[0]);
      EXPECT_EQ(std::memcmp(x.bytes(), y.bytes(), x.nbytes()), 0) << t.name;
    }
  }
};

TEST_F(SurvivalTest, OneRanksSignalStopsAllAndTheResumedRunIsTheStraightOne) {
  train(2, guarded("straight", 12, 100));
  EXPECT_EQ(train_and_stop(2, guarded("run", 12, 100), 1, 5), RunEnd::interrupted);
  EXPECT_EQ(metrics("run").size(), 5u);
  EXPECT_TRUE(fs::exists(folder_ / "run/checkpoints/step-00000005"));
  EXPECT_EQ(train_and_stop(2, guarded("run", 12, 100), 0, 1, "auto"), RunEnd::interrupted);
  EXPECT_EQ(metrics("run").size(), 6u) << "a step is done between two signals";
  train(2, guarded("run", 12, 100), "auto");
  EXPECT_EQ(curve("run"), curve("straight"));
  EXPECT_TRUE(diff_checkpoints(checkpoint("run", 12), checkpoint("straight", 12)).empty());
}

TEST_F(SurvivalTest, ASignalInTheLastStepChangesNothing) {
  EXPECT_EQ(train_and_stop(2, guarded("run", 4, 100), 0, 4), RunEnd::complete);
}

TEST_F(SurvivalTest, ASkippedStepLeavesNoTraceButTheDataGoesOn) {
  train(2, guarded("run", 8, 1), "none", {"nan:rank=1,step=5-6"});
  expect_same_weights("run", 4, 5);
  expect_same_weights("run", 4, 6);
  const json before = state("run", 4), after = state("run", 6);
  EXPECT_EQ(after.at("optimizer_steps"), before.at("optimizer_steps"));
  EXPECT_EQ(after.at("tokens"), before.at("tokens"));
  EXPECT_NE(after.at("consumed"), before.at("consumed"));
  EXPECT_EQ(state("run", 8).at("optimizer_steps"), 6);

  const std::vector<json> rows = metrics("run");
  ASSERT_EQ(rows.size(), 8u);
  EXPECT_TRUE(rows[4].at("grad_norm").is_null());
  EXPECT_EQ(rows[4].at("skipped"), "the gradient norm is not finite");
  EXPECT_FALSE(rows[6].contains("skipped"));
  EXPECT_EQ(rows[7].at("skipped_steps"), 2);
  EXPECT_EQ(rows[7].at("rollbacks"), 0);
}

TEST_F(SurvivalTest, RollsBackToTheNewestGoodCheckpointWithOtherData) {
  const std::vector<std::string> faults = {"nan:rank=0,step=8-10"};
  train(2, guarded("run", 14, 3), "none", faults);
  // Weights of step 7 met three bad steps; the newest checkpoint up to there is that of step 6.
  const std::vector<json> rows = metrics("run");
  ASSERT_EQ(rows.size(), 14u);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].at("step"), i + 1);
    EXPECT_EQ(rows[i].at("rollbacks"), i < 6 ? 0 : 1);
  }
  EXPECT_EQ(rows.back().at("skipped_steps"), 3);
  EXPECT_TRUE(fs::exists(folder_ / "run/metrics.jsonl.before-6"));
  EXPECT_FALSE(fs::exists(folder_ / "run/checkpoints/step-00000009/manifest.json") &&
               state("run", 9).at("guard").at("rollbacks") == 0);
  const json end = state("run", 14);
  EXPECT_EQ(end.at("optimizer_steps"), 14);
  std::int64_t consumed = 0;
  for (const auto& [domain, n] : end.at("consumed").items()) consumed += n.get<std::int64_t>();
  EXPECT_EQ(consumed, 8 * (14 + 4)) << "the data of steps 7 to 10 is behind";

  // The same job, stopped wherever it may be, is the same run to the last bit.
  for (const int stop : {5, 7, 9, 11, 13}) {
    const std::string name = str("stopped", stop);
    EXPECT_EQ(train_and_stop(2, guarded(name, 14, 3), 1, stop, "none", faults),
              RunEnd::interrupted);
    train(2, guarded(name, 14, 3), "auto", faults);
    EXPECT_EQ(curve(name), curve("run")) << stop;
    EXPECT_TRUE(diff_checkpoints(checkpoint(name, 14), checkpoint("run", 14)).empty()) << stop;
  }
}

TEST_F(SurvivalTest, PassesOverADamagedCheckpoint) {
  train(2, guarded("run", 12, 3), "none", {"nan:rank=0,step=8-10", "flipped-byte:step=6"});
  EXPECT_EQ(metrics("run")[3].at("rollbacks"), 1);
  EXPECT_EQ(metrics("run")[2].at("rollbacks"), 0);
  EXPECT_TRUE(fs::exists(folder_ / "run/checkpoints/abandoned-step-00000006"));
}

TEST_F(SurvivalTest, GoesFurtherBackWhenGoingBackDoesNotHelp) {
  train(2, guarded("run", 12, 3), "none",
        {"nan:rank=0,step=8-10", "nan:rank=0,step=7-9,rollbacks=1"});
  EXPECT_EQ(metrics("run")[3].at("rollbacks"), 2);
  EXPECT_EQ(metrics("run")[2].at("rollbacks"), 0);
  EXPECT_EQ(state("run", 12).at("optimizer_steps"), 12);
}

TEST_F(SurvivalTest, StopsWhenRollbacksDoNotHelpOrCannotBe) {
  TrainConfig c = guarded("run", 20, 3);
  c.guard.max_rollbacks = 1;
  const std::string gave_up =
      failure_of(c, {"nan:rank=0,step=5-9", "nan:rank=0,step=5-9,rollbacks=1"});
  EXPECT_THAT(gave_up, HasSubstr("3 steps in a row up to step 7 were skipped after 1 rollbacks"));
  EXPECT_THAT(gave_up, HasSubstr("lower optimizer.learning_rate"));
  EXPECT_TRUE(fs::exists(folder_ / "run/checkpoints/step-00000003"));
  EXPECT_FALSE(fs::exists(folder_ / "run/checkpoints/step-00000007"));

  EXPECT_THAT(failure_of(guarded("none", 20, 0), {"nan:rank=0,step=2-9"}),
              HasSubstr("there is no checkpoint of step 1 or before to go back to"));
}

TEST_F(SurvivalTest, SpikesAreSkippedAndTheWindowSurvivesAResume) {
  TrainConfig c = guarded("run", 30, 100);
  c.guard.spike_factor = 1.002;
  c.guard.spike_window = 5;
  c.guard.max_skipped = 100;
  train(2, c);
  const std::vector<json> rows = metrics("run");
  const std::int64_t skipped = rows.back().at("skipped_steps");
  ASSERT_GT(skipped, 0);
  ASSERT_LT(skipped, 20);
  EXPECT_EQ(state("run", 30).at("optimizer_steps"), 30 - skipped);
  for (const json& row : rows)
    if (row.contains("skipped")) {
      EXPECT_EQ(row.at("skipped"), "the loss is a spike");
    }
  c.run.folder = (folder_ / "stopped").string();
  for (const int stop : {7, 8, 4}) (void)train_and_stop(2, c, 0, stop, "auto");
  train(2, c, "auto");
  EXPECT_EQ(curve("stopped"), curve("run"));
  EXPECT_TRUE(diff_checkpoints(checkpoint("stopped", 30), checkpoint("run", 30)).empty());
}

TEST_F(SurvivalTest, AHotExpertGetsItsShareOnEveryLayout) {
  train(1, config("alone", 4, 1), "none", {"hot-expert:expert=1,step=2-3"});
  train(2, config("two", 4, 2), "none", {"hot-expert:expert=1,step=2-3"});
  for (const char* run : {"alone", "two"}) {
    const std::vector<json> rows = metrics(run);
    for (const int step : {2, 3})
      for (const double load : rows[std::size_t(step - 1)].at("load_max_over_mean"))
        EXPECT_DOUBLE_EQ(load, 2) << "every token of top-2 of 4 experts has it";
    for (const double load : rows[3].at("load_max_over_mean")) EXPECT_LT(load, 1.9);
  }
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(curve("two")[i][1], curve("alone")[i][1], 1e-5);
}

TEST_F(SurvivalTest, TheHeartbeatSaysWhereTheRunIs) {
  train(2, guarded("run", 3, 100));
  const json beat = json::parse(std::ifstream(folder_ / "run/heartbeat.json"));
  EXPECT_EQ(beat.at("step"), 3);
  EXPECT_EQ(beat.at("phase"), "complete");
  EXPECT_EQ(beat.at("pid"), getpid());
  EXPECT_NEAR(beat.at("time").get<double>(), double(time(nullptr)), 60);
  EXPECT_FALSE(beat.at("host").get<std::string>().empty());
  (void)train_and_stop(2, guarded("stopped", 3, 100), 0, 2);
  EXPECT_EQ(json::parse(std::ifstream(folder_ / "stopped/heartbeat.json")).at("phase"),
            "interrupted");
}

}  // namespace
}  // namespace moe
