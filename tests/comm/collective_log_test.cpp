// SPDX-License-Identifier: Apache-2.0
#include "comm/collective_log.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "comm/communicator.h"

namespace moe {
namespace {

TEST(CollectiveLog, RemembersWhereACollectiveStartedAndWhetherItEnded) {
  const CollectiveSummary before = collective_summary();
  set_phase_step(7);
  set_phase("experts", 3);
  CollectiveTicket ticket("all_to_all", 640);
  set_phase("attention");
  const CollectiveSummary during = collective_summary();
  EXPECT_EQ(during.started, before.started + 1);
  EXPECT_EQ(during.finished, before.finished);
  EXPECT_EQ(describe(during.oldest_unfinished),
            "all_to_all of 640 bytes (step 7, layer 3, experts)");
  EXPECT_EQ(describe(current_phase()), "step 7, attention");
  ticket.finish();
  ticket.finish();
  const CollectiveSummary after = collective_summary();
  EXPECT_EQ(after.finished, before.finished + 1);
  EXPECT_EQ(after.oldest_unfinished.number, 0);
  EXPECT_TRUE(last_collectives().back().finished);
}

TEST(CollectiveLog, KeepsTheLastOnesAndAllUnfinishedOnes) {
  {
    const CollectiveTicket oldest("broadcast", 8);
    for (std::size_t i = 0; i < 2 * kCollectivesKept; ++i)
      const CollectiveTicket ticket("barrier", 0);
    EXPECT_STREQ(collective_summary().oldest_unfinished.operation, "broadcast");
  }
  const CollectiveTicket last("all_gather", 1);
  EXPECT_EQ(last_collectives().size(), kCollectivesKept);
  EXPECT_STREQ(last_collectives().back().operation, "all_gather");
}

TEST(CollectiveLog, IsFilledByCommunicators) {
  const auto world = single_rank();
  world->all_reduce(Tensor::zeros({5}, DType::f64), ReduceOp::sum).wait();
  const CollectiveRecord record = last_collectives().back();
  EXPECT_STREQ(record.operation, "all_reduce");
  EXPECT_EQ(record.bytes, 40);
  EXPECT_TRUE(record.finished);
}

TEST(CollectiveLog, KnowsWhenThisProcessWaits) {
  EXPECT_FALSE(collective_summary().waiting);
  const WaitingScope waiting;
  EXPECT_TRUE(collective_summary().waiting);
}

TEST(CollectiveLog, AddsUpWhatEachThreadWaitedByItsPhase) {
  using std::chrono::milliseconds;
  take_waiting_seconds();
  set_phase("dispatch");
  for (int i = 0; i < 2; ++i) {
    const WaitingScope waiting;
    std::this_thread::sleep_for(milliseconds(10));
  }
  std::jthread([] {
    set_phase("combine");
    const WaitingScope waiting;
    std::this_thread::sleep_for(milliseconds(5));
    EXPECT_TRUE(take_waiting_seconds().empty());  // it still waits
  }).join();
  std::this_thread::sleep_for(milliseconds(10));  // computes
  const std::map<std::string, double> waited = take_waiting_seconds();
  ASSERT_EQ(waited.size(), 1u);
  EXPECT_GE(waited.at("dispatch"), 0.02);
  EXPECT_TRUE(take_waiting_seconds().empty());
}

}  // namespace
}  // namespace moe
