// SPDX-License-Identifier: Apache-2.0
#include "core/rng.h"

#include <gtest/gtest.h>

#include <set>

namespace moe {
namespace {

TEST(Philox, IsAPureFunctionOfSeedPurposeKeysAndIndex) {
  const Philox a(1, RandomPurpose::test, {2, 3}), b(1, RandomPurpose::test, {2, 3});
  EXPECT_EQ(a.bits(17), b.bits(17));
  std::set<std::uint64_t> seen = {a.bits(0),
                                  a.bits(1),
                                  Philox(2, RandomPurpose::test, {2, 3}).bits(0),
                                  Philox(1, RandomPurpose::split, {2, 3}).bits(0),
                                  Philox(1, RandomPurpose::test, {3, 2}).bits(0),
                                  Philox(1, RandomPurpose::test, {2}).bits(0)};
  EXPECT_EQ(seen.size(), 6u);
}

// Checkpoints and data orders rest on these values: changing them breaks every run in flight.
TEST(Philox, KeepsItsValues) {
  const Philox random(42, RandomPurpose::sampling, {7});
  EXPECT_EQ(random.bits(0), 0xa6d33c135bfb0863ull);
  EXPECT_EQ(random.bits(123456789), 0xd99187acc3c08cd4ull);
}

TEST(Philox, UniformAndNormalHaveTheirMoments) {
  const Philox random(5, RandomPurpose::test);
  constexpr int n = 200000;
  double mean = 0, normal_mean = 0, normal_square = 0;
  for (int i = 0; i < n; ++i) {
    const double u = random.uniform(std::uint64_t(i)), z = random.normal(std::uint64_t(n + i));
    ASSERT_TRUE(u >= 0 && u < 1);
    mean += u / n;
    normal_mean += z / n;
    normal_square += z * z / n;
  }
  EXPECT_NEAR(mean, 0.5, 0.003);
  EXPECT_NEAR(normal_mean, 0, 0.01);
  EXPECT_NEAR(normal_square, 1, 0.02);
}

TEST(Permutation, HoldsEveryNumberOnceAndDependsOnTheSeed) {
  const auto a = permutation(100, Philox(1, RandomPurpose::test));
  EXPECT_EQ(std::set<std::int64_t>(a.begin(), a.end()).size(), 100u);
  EXPECT_NE(a, permutation(100, Philox(2, RandomPurpose::test)));
  EXPECT_TRUE(permutation(0, Philox(1, RandomPurpose::test)).empty());
}

}  // namespace
}  // namespace moe
