// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_saver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "train/checkpoint_diff.h"
#include "train/checkpoint_files.h"
#include "train/checkpoint_fixture.h"
#include "train/checkpoint_manifest.h"

namespace moe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// What a training step does to the state.
void train(std::vector<TensorRows>& state) {
  for (const TensorRows& r : state) std::memset(r.value.bytes(), 0x5A, r.value.nbytes());
}

/// Polls as training does, with steps in between.
SaveResult poll_and_train(CheckpointSaver& saver, std::vector<TensorRows>& state) {
  for (;;) {
    train(state);
    if (auto result = saver.poll()) return *result;
  }
}

class Saver : public Checkpoint {};

TEST_F(Saver, HoldsTheBitsOfTheStepWhileTrainingGoesOn) {
  run_ranks(3, [&](Communicator& world) {
    CheckpointSaver saver(folder_, {}, world);
    for (const std::uint64_t variant : {1, 2, 3}) {
      std::vector<TensorRows> state = share(world.rank(), 3, variant);
      saver.begin(std::int64_t(variant), state, texts());
      EXPECT_TRUE(saver.busy());
      const SaveResult result = poll_and_train(saver, state);
      EXPECT_EQ(result.failure, "");
      EXPECT_EQ(result.step, std::int64_t(variant));
      EXPECT_FALSE(saver.busy());
      EXPECT_EQ(saver.poll(), std::nullopt);
      EXPECT_GE(result.seconds_still, 0);
      if (world.rank() > 0) continue;
      EXPECT_GT(result.seconds, 0);
      std::int64_t bytes = 0;
      for (const std::string& name : names_in(result.folder))
        if (name != kManifestName) bytes += std::int64_t(fs::file_size(result.folder / name));
      EXPECT_EQ(result.bytes, bytes);
    }
  });
  for (const std::uint64_t variant : {1, 2, 3})
    expect_complete(folder_ / checkpoint_name(std::int64_t(variant)), variant);
}

TEST_F(Saver, GivesTheSameFilesAsSavingStandingStill) {
  run_ranks(2, [&](Communicator& world) {
    CheckpointSaver behind(folder_ / "a", {}, world), still(folder_ / "b", {}, world);
    behind.begin(5, share(world.rank(), 2), texts());
    EXPECT_EQ(behind.finish()->failure, "");
    EXPECT_EQ(still.save(5, share(world.rank(), 2), texts()).failure, "");
  });
  const fs::path a = folder_ / "a/step-00000005", b = folder_ / "b/step-00000005";
  EXPECT_EQ(names_in(a), names_in(b));
  for (const std::string& name : names_in(a))
    EXPECT_EQ(digest_of(a / name).checksum, digest_of(b / name).checksum) << name;
}

TEST_F(Saver, ARankThatFailsFailsTheSaveOnAllAndTheNextOneTriesAgain) {
  run_ranks(3, [&](Communicator& world) {
    CheckpointSaver saver(folder_, {}, world);
    saver.begin(1, share(world.rank(), 3, 1), texts());
    EXPECT_EQ(saver.finish()->failure, "");

    std::vector<TensorRows> state = share(world.rank(), 3, 2);
    if (world.rank() == 1) state[0].first_row = 1000;
    saver.begin(2, state, texts());
    const SaveResult result = poll_and_train(saver, state);
    EXPECT_THAT(result.failure, testing::StartsWith("rank 1: "));
    EXPECT_THAT(result.failure, HasSubstr("embed.weight: rows of shape"));
    world.barrier().wait();
    EXPECT_THAT(names_in(folder_), ElementsAre("step-00000001"));
    world.barrier().wait();

    saver.begin(2, share(world.rank(), 3, 2), texts());
    EXPECT_EQ(saver.finish()->failure, "");
  });
  expect_complete(folder_ / "step-00000001", 1);
  expect_complete(folder_ / "step-00000002", 2);
}

TEST_F(Saver, AManifestThatCannotBeMadeFailsTheSaveOnAll) {
  run_ranks(2, [&](Communicator& world) {
    CheckpointSaver saver(folder_, {}, world);
    saver.begin(1, share(0, 2), texts());  // both bring rank 0's rows
    EXPECT_THAT(saver.finish()->failure, HasSubstr("are stored twice"));
  });
  EXPECT_TRUE(names_in(folder_).empty());
}

TEST_F(Saver, LosesOnlyTheSaveUnderWayWhenItEnds) {
  (void)save(folder_, 1, 2, 1);
  run_ranks(2, [&](Communicator& world) {
    CheckpointSaver saver(folder_, {}, world);
    saver.begin(2, share(world.rank(), 2, 2), texts());
  });
  EXPECT_EQ(latest_checkpoint(folder_), folder_ / "step-00000001");
  expect_complete(folder_ / "step-00000001", 1);
  run_ranks(2, [&](Communicator& world) { CheckpointSaver saver(folder_, {}, world); });
  EXPECT_THAT(names_in(folder_), ElementsAre("step-00000001"));
}

TEST_F(Saver, TwoAtOnceAreRefused) {
  const auto world = single_rank();
  CheckpointSaver saver(folder_, {}, *world);
  saver.begin(1, share(0, 1), texts());
  EXPECT_THROW(saver.begin(2, share(0, 1), texts()), Error);
  EXPECT_EQ(saver.finish()->step, 1);
  EXPECT_EQ(saver.finish(), std::nullopt);
}

TEST_F(Saver, PrunesOnceTheNewOneIsThere) {
  const auto world = single_rank();
  CheckpointSaver saver(folder_, {.last = 1, .every = 2}, *world);
  for (const std::int64_t step : {1, 2, 3, 4, 5}) {
    saver.begin(step, share(0, 1), texts());
    EXPECT_EQ(saver.finish()->warning, "");
  }
  EXPECT_THAT(names_in(folder_), ElementsAre("step-00000002", "step-00000004", "step-00000005"));
}

TEST_F(Saver, TheCopyIsAccountedAndUsedAgain) {
  const auto world = single_rank();
  const auto held = [] { return memory_account().live[std::size_t(MemoryKind::snapshot)]; };
  {
    CheckpointSaver saver(folder_, {}, *world);
    saver.begin(1, share(0, 1), texts());
    const std::int64_t first = held();
    EXPECT_GT(first, 0);
    (void)saver.finish();
    saver.begin(2, share(0, 1), texts());
    EXPECT_EQ(held(), first);
    (void)saver.finish();
  }
  EXPECT_EQ(held(), 0);
  CheckpointSaver saver(folder_, {}, *world);
  (void)saver.save(3, share(0, 1), texts());
  EXPECT_EQ(held(), 0);
}

}  // namespace
}  // namespace moe
