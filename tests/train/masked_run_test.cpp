// SPDX-License-Identifier: Apache-2.0
// Runs on shards that say which tokens are learned.
#include <cmath>

#include "train/run_fixture.h"

namespace moe {
namespace {

class MaskedRun : public testing::RunFixture {
 protected:
  /// Documents whose learned share goes from nothing to everything.
  void SetUp() override {
    RunFixture::SetUp();
    TokenFileInfo info{.domain = "a", .vocabulary_size = 40, .masked = true};
    TokenWriter writer(info, folder_);
    const Philox random(3, RandomPurpose::test);
    for (std::uint64_t d = 0; d < 60; ++d) {
      std::vector<std::int32_t> document;
      std::vector<std::uint8_t> learned;
      for (std::uint64_t i = 0; i < 12; ++i) {
        document.push_back(std::int32_t(random.below(100 * d + i, 40)));
        learned.push_back(random.below(100 * d + i + 50, 60) < (d < 20 ? 0 : d));
      }
      writer.append(document, learned);
    }
    writer.write(folder_ / "a.h5");
  }

  TrainConfig masked(const std::string& run, std::int64_t micro) const {
    TrainConfig c = config(run, 6, 1);
    c.data.train.resize(1);
    c.data.packing.packing = Packing::best_fit;
    c.data.packing.document_masks = true;
    c.data.sequence_length = 16;
    c.batch.micro = micro;
    c.train.eval_every = 3;
    c.train.eval_sequences = 50;
    return c;
  }
};

TEST_F(MaskedRun, UnequalMasksAcrossRanksAndMicroBatchesGiveTheLossOfOneProcess) {
  train(1, masked("whole", 8));
  const auto whole = curve("whole");
  ASSERT_EQ(whole.size(), 6u);
  for (const auto& [ranks, micro] : {std::pair(1, 1), {2, 4}, {2, 1}, {4, 2}}) {
    const std::string run = str("r", ranks, "m", micro);
    train(ranks, masked(run, micro));
    const auto parts = curve(run);
    ASSERT_EQ(parts.size(), whole.size());
    for (std::size_t s = 0; s < whole.size(); ++s)
      for (const std::size_t figure : {1, 2, 4})  // loss, gradient norm, held-out loss
        EXPECT_NEAR(parts[s][figure], whole[s][figure], 2e-5 * std::abs(whole[s][figure]))
            << run << " step " << s << " figure " << figure;
  }
}

TEST_F(MaskedRun, AStepWithoutALearnedTokenLearnsNothingOfItAndGoesOn) {
  TokenFileInfo info{.domain = "a", .vocabulary_size = 40, .masked = true};
  TokenWriter writer(info, folder_);
  for (std::int32_t d = 0; d < 32; ++d)
    writer.append(std::vector<std::int32_t>(17, d), std::vector<std::uint8_t>(17, d == 9));
  writer.write(folder_ / "a.h5");
  TrainConfig c = masked("empty", 2);
  c.train.steps = 4;  // one epoch: three batches of four have nothing to learn
  train(1, c);
  int empty = 0;
  for (const auto& step : curve("empty")) {
    EXPECT_TRUE(std::isfinite(step[1]) && std::isfinite(step[2]));
    empty += step[1] == 0;
  }
  EXPECT_EQ(empty, 3);
}

}  // namespace
}  // namespace moe
