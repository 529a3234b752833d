// SPDX-License-Identifier: Apache-2.0
#include "data/ordered_pipeline.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>

namespace moe {
namespace {

/// Numbers 0 to count - 1, squared by `threads` threads; throws where told to.
std::vector<int> squares(std::size_t threads, int count, int bad_input = -1, int bad_work = -1,
                         int bad_use = -1) {
  std::vector<int> seen;
  int next = 0;
  std::atomic<int> under_way{0}, most{0};
  const auto run = [&] {
    ordered_pipeline<int, int>(
        threads,
        [&](int& in) {
          if (next == bad_input) throw std::runtime_error("input");
          in = next++;
          most = std::max(most.load(), ++under_way);
          return in < count;
        },
        [&](int&& in) {
          if (bad_work >= 0 && in / 2 == bad_work / 2) throw std::runtime_error(std::to_string(in));
          for (volatile int i = 0; i < (in % 7) * 3000;) i = i + 1;
          return in * in;
        },
        [&](int&& out) {
          --under_way;
          if (int(seen.size()) == bad_use) throw std::runtime_error("use");
          seen.push_back(out);
        });
  };
  try {
    run();
  } catch (const std::runtime_error& e) {
    seen.push_back(-1);
    EXPECT_EQ(e.what(), bad_work >= 0    ? std::to_string(bad_work)
                        : bad_input >= 0 ? "input"
                                         : "use");
  }
  EXPECT_LE(most, int(2 * threads + 2) + 2);
  return seen;
}

TEST(OrderedPipeline, GivesResultsInTheOrderOfTheInputs) {
  std::vector<int> expected;
  for (int i = 0; i < 500; ++i) expected.push_back(i * i);
  for (const std::size_t threads : {1, 2, 7}) EXPECT_EQ(squares(threads, 500), expected);
  EXPECT_TRUE(squares(3, 0).empty());
}

TEST(OrderedPipeline, TheFirstErrorStopsItAfterWhatCameBefore) {
  for (const std::size_t threads : {1, 2, 7})
    for (int round = 0; round < 20; ++round)
      for (const auto& seen : {squares(threads, 100, 30), squares(threads, 100, -1, 30),
                               squares(threads, 100, -1, -1, 30)}) {
        ASSERT_EQ(seen.size(), 31u);
        EXPECT_EQ(seen[29], 29 * 29);
        EXPECT_EQ(seen[30], -1);
      }
}

}  // namespace
}  // namespace moe
