// SPDX-License-Identifier: Apache-2.0
#include "comm/process_grid.h"

#include <gtest/gtest.h>

namespace moe {
namespace {

TEST(ProcessGrid, RefusesAnEpThatDoesNotDivideTheRanks) {
  run_ranks(4, [](Communicator& world) {
    for (const int ep : {3, 0, -1, 8}) {
      try {
        const ProcessGrid grid(world, ep);
        ADD_FAILURE() << "ep " << ep << " was accepted";
      } catch (const InputError& error) {
        EXPECT_EQ(error.what(), str("parallel.expert is ", ep, ", which does not divide the 4 ranks: choose 1, 2, 4"));
      }
    }
  });
}

TEST(ShareOf, CoversAllThingsOnceInOrder) {
  for (const std::int64_t count : {0, 1, 7, 8, 100})
    for (const int size : {1, 2, 3, 8}) {
      std::int64_t next = 0;
      for (int rank = 0; rank < size; ++rank) {
        const Share share = share_of(count, rank, size);
        EXPECT_EQ(share.first, next);
        EXPECT_EQ(share.count, count / size + (rank < count % size));
        next += share.count;
      }
      EXPECT_EQ(next, count);
    }
}

TEST(ShareOf, GivesSevenExpertsOnTwoRanksAsFourAndThree) {
  EXPECT_EQ(share_of(7, 0, 2).count, 4);
  EXPECT_EQ(share_of(7, 1, 2).first, 4);
  EXPECT_THROW(share_of(7, 2, 2), Error);
}

}  // namespace
}  // namespace moe
