// SPDX-License-Identifier: Apache-2.0
#include "train/faults.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/durable_files.h"
#include "core/error.h"
#include "support/test_folder.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

TEST(Faults, AreReadAsTheyAreWritten) {
  const Fault late = parse_fault("late:rank=3,step=7,seconds=1.5");
  EXPECT_EQ(late.kind, Fault::Kind::late);
  EXPECT_EQ(late.rank, 3);
  EXPECT_EQ(late.first_step, 7);
  EXPECT_EQ(late.last_step, 7);
  EXPECT_EQ(late.seconds, 1.5);
  const Fault hot = parse_fault("hot-expert:share=0.25,step=4-12,expert=2,rollbacks=1");
  EXPECT_EQ(hot.kind, Fault::Kind::hot_expert);
  EXPECT_EQ(hot.first_step, 4);
  EXPECT_EQ(hot.last_step, 12);
  EXPECT_EQ(hot.expert, 2);
  EXPECT_EQ(hot.share, 0.25);
  EXPECT_EQ(hot.rollbacks, 1);
  for (const char* text :
       {"dead:rank=0,step=1", "stopped:rank=0,step=1", "nan:rank=0,step=1", "flipped-byte:step=1",
        "full-disk:rank=0,step=1", "failing-disk:rank=0,step=1"})
    EXPECT_NO_THROW((void)parse_fault(text)) << text;
}

TEST(Faults, MalformedOnesAreRefusedWithWhatTheKindTakes) {
  const auto message = [](const std::string& text) -> std::string {
    try {
      (void)parse_fault(text);
    } catch (const InputError& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_THAT(message("dad:rank=1,step=2"), HasSubstr("no fault is called 'dad': use one of dead"));
  EXPECT_THAT(message(""), HasSubstr("no fault is called ''"));
  EXPECT_THAT(message("dead:rank=1"), HasSubstr("step is missing: dead takes rank*, step*"));
  EXPECT_THAT(message("dead:rank=1,step=2,seconds=1"), HasSubstr("unknown key"));
  EXPECT_THAT(message("dead:rank=1,rank=1,step=2"), HasSubstr("a second 'rank'"));
  for (const char* steps : {"0", "-1", "5-4", "2-", "x", "", "1.5", "99999999999999999999"})
    EXPECT_THAT(message(str("dead:rank=1,step=", steps)), HasSubstr("is no value of step"));
  EXPECT_THAT(message("dead:rank=-1,step=2"), HasSubstr("'-1' is no value of rank"));
  EXPECT_THAT(message("late:rank=1,step=2,seconds=nan"), HasSubstr("is no value of seconds"));
  EXPECT_THAT(message("hot-expert:expert=0,step=2,share=1.5"), HasSubstr("no value of share"));
}

TEST(Faults, RanksAndExpertsMustBeThere) {
  EXPECT_THROW(FaultDrills({parse_fault("dead:rank=2,step=1")}, 0, 2, 4), InputError);
  EXPECT_THROW(FaultDrills({parse_fault("hot-expert:expert=4,step=1")}, 0, 2, 4), InputError);
}

TEST(Faults, HappenToTheirRankAtTheirStepBeforeTheirRollback) {
  const std::vector<Fault> faults = {parse_fault("nan:rank=1,step=3-4"),
                                     parse_fault("nan:rank=1,step=9,rollbacks=1"),
                                     parse_fault("hot-expert:expert=2,step=3,share=0.5")};
  const FaultDrills mine(faults, 1, 2, 4), other(faults, 0, 2, 4);
  for (std::int64_t step = 1; step < 12; ++step) {
    EXPECT_EQ(mine.faults_of(step, 0).nan_gradient, step == 3 || step == 4);
    EXPECT_EQ(mine.faults_of(step, 1).nan_gradient, step == 9);
    EXPECT_FALSE(other.faults_of(step, 0).nan_gradient);
    EXPECT_EQ(other.faults_of(step, 0).hot_expert.expert, step == 3 ? 2 : -1);
  }
}

TEST(Faults, ADiskFailsForTheCheckpointOfItsStepAlone) {
  const test::TestFolder folder;
  const auto drill = [&](const char* text, std::int64_t step) {
    FaultDrills({parse_fault(text)}, 0, 1, 0).before_save(step);
    try {
      (void)write_synced(folder.path() / fmt::format(".step-{:08}.tmp.json", step), "{}");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("written");
  };
  EXPECT_EQ(drill("full-disk:rank=0,step=31", 30), "written");
  EXPECT_THAT(drill("full-disk:rank=0,step=31", 31), HasSubstr("No space left on device"));
  EXPECT_THAT(drill("failing-disk:rank=0,step=33", 33), HasSubstr("Input/output error"));
}

}  // namespace
}  // namespace moe
