// SPDX-License-Identifier: Apache-2.0
// Runs that go on from damaged folders, and checkpoints written behind the training.
#include <gmock/gmock.h>

#include "train/checkpoint_diff.h"
#include "train/checkpoint_folders.h"
#include "train/run_fixture.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class ResumeTest : public testing::RunFixture {
 protected:
  fs::path folder_of(const std::string& run, int step) const {
    return folder_ / run / "checkpoints" / checkpoint_name(step);
  }

  TrainConfig often(const std::string& run, std::int64_t steps, bool async = true) const {
    TrainConfig c = config(run, steps, 2);
    c.train.checkpoint_every = 5;
    c.train.keep_last = 100;
    c.train.async_checkpoints = async;
    return c;
  }

  static void flip_byte(const fs::path& file) {
    std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
    f.seekg(std::int64_t(fs::file_size(file) / 2));
    const char byte = char(f.peek() ^ 0x10);
    f.seekp(std::int64_t(fs::file_size(file) / 2));
    f.put(byte);
  }

  std::string message(int ranks, const TrainConfig& c, const std::string& resume) const {
    try {
      train(ranks, c, resume);
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  }
};

TEST_F(ResumeTest, SavingBehindTheTrainingAndStandingStillGiveTheSameCheckpoints) {
  train(2, often("behind", 22));
  train(2, often("still", 22, false));
  for (const int step : {5, 10, 15, 20, 22})
    EXPECT_TRUE(diff_checkpoints(checkpoint("behind", step), checkpoint("still", step)).empty())
        << step;
  EXPECT_EQ(curve("behind"), curve("still"));
}

TEST_F(ResumeTest, SavesAtEveryStepAreAllThere) {
  TrainConfig c = often("run", 6);
  c.train.checkpoint_every = 1;
  train(2, c);
  int reported = 0;
  std::ifstream in(folder_ / "run/metrics.jsonl");
  for (std::string line; std::getline(in, line);) {
    const auto m = nlohmann::json::parse(line);
    if (!m.contains("checkpoint")) continue;
    ++reported;
    EXPECT_TRUE(m["checkpoint"].at("saved"));
    EXPECT_LT(m["checkpoint"].at("step"), m.at("step"));
    EXPECT_GT(m["checkpoint"].at("bytes_per_second"), 0);
  }
  EXPECT_GE(reported, 3);
  for (int step = 1; step <= 6; ++step) checkpoint("run", step).verify();
}

TEST_F(ResumeTest, ADamagedNewestCheckpointIsNamedAndTheOneBeforeTaken) {
  train(2, often("straight", 20));
  train(2, often("run", 15));
  std::vector<std::string> files = {"manifest is missing"};
  for (const auto& entry : fs::directory_iterator(folder_of("run", 15)))
    files.push_back(entry.path().filename().string());
  ASSERT_EQ(files.size(), 7u);  // and two ranks, three texts, the manifest
  fs::rename(folder_ / "run", folder_ / "good");
  for (const std::string& file : files) {
    fs::remove_all(folder_ / "run");
    fs::copy(folder_ / "good", folder_ / "run", fs::copy_options::recursive);
    const fs::path damaged = folder_of("run", 15) / file;
    if (file == "manifest is missing")
      fs::remove(damaged.parent_path() / "manifest.json");
    else
      flip_byte(damaged);
    ::testing::internal::CaptureStderr();
    train(2, often("run", 20), "auto");
    const std::string said = ::testing::internal::GetCapturedStderr();
    EXPECT_THAT(said, HasSubstr("step-00000015 is damaged and is not used: ")) << file;
    if (file != "manifest is missing") {
      EXPECT_THAT(said, HasSubstr(damaged.string() + ": "));
    }
    EXPECT_THAT(said, HasSubstr("step-00000010 after step 10")) << file;
    EXPECT_TRUE(fs::exists(folder_ / "run/checkpoints/abandoned-step-00000015"));
    EXPECT_TRUE(diff_checkpoints(checkpoint("run", 20), checkpoint("straight", 20)).empty())
        << file;
    EXPECT_EQ(curve("run"), curve("straight")) << file;
  }
}

TEST_F(ResumeTest, WithoutAnyGoodCheckpointTheRunIsRefused) {
  train(2, often("run", 10));
  flip_byte(folder_of("run", 5) / "rank-00001.h5");
  EXPECT_THAT(message(2, often("run", 20), folder_of("run", 5).string()),
              HasSubstr("rank-00001.h5: its checksum differs"));
  fs::remove(folder_of("run", 10) / "rank-00000.h5");
  const std::string said = message(2, often("run", 20), "auto");
  EXPECT_THAT(said, HasSubstr("no checkpoint here is whole"));
  EXPECT_THAT(said, HasSubstr("step-00000010/rank-00000.h5: cannot be read"));
  EXPECT_THAT(said, HasSubstr("step-00000005/rank-00001.h5: its checksum differs"));
  EXPECT_THAT(said, HasSubstr("--set run.overwrite=true"));
  EXPECT_EQ(curve("run").size(), 10u);  // nothing has changed
}

/// Runs over four layouts, each from where the one before ended.
TEST_F(ResumeTest, ElasticRunsGiveTheStraightRunsLosses) {
  struct Layout {
    int ranks, ep;
  };
  for (const bool zero : {false, true}) {
    const auto run_config = [&](const std::string& run, std::int64_t steps, int ep) {
      TrainConfig c = often(run, steps);
      c.parallel.expert = ep;
      c.parallel.zero = zero;
      c.train.checkpoint_every = 0;
      c.train.eval_every = 0;
      return c;
    };
    const std::string straight = str("straight ", zero), run = str("run ", zero);
    train(1, run_config(straight, 24, 1));
    std::int64_t steps = 0;
    for (const Layout l : {Layout{4, 1}, Layout{4, 4}, Layout{4, 2}, Layout{1, 1}}) {
      train(l.ranks, run_config(run, steps += 6, l.ep), "auto");
      // Saved again by every other layout, with ZeRO and without: the same checkpoint.
      for (const Layout other : {Layout{1, 1}, Layout{2, 2}, Layout{4, 2}, Layout{4, 1}}) {
        const std::string again = str("again ", zero, steps, other.ranks, other.ep);
        TrainConfig c = run_config(again, steps, other.ep);
        c.parallel.zero = other.ep == 2 ? !zero : zero;
        run_ranks(other.ranks, [&](Communicator& world) {
          StartOptions start;
          start.resume = folder_of(run, int(steps)).string();
          Trainer(c, start, world).save();
        });
        EXPECT_TRUE(
            diff_checkpoints(checkpoint(again, int(steps)), checkpoint(run, int(steps))).empty())
            << again;
        fs::remove_all(folder_ / again);
      }
    }
    const auto elastic = curve(run), same = curve(straight);
    ASSERT_EQ(elastic.size(), 24u);
    for (std::size_t i = 0; i < 24; ++i)
      EXPECT_NEAR(elastic[i][1], same[i][1], 1e-6 * same[i][1]) << "step " << i + 1;
  }
}

}  // namespace
}  // namespace moe
