// SPDX-License-Identifier: Apache-2.0
#include "split/balanced_assignment.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/rng.h"
#include "split/partition.h"

namespace moe {
namespace {

struct Problem {
  std::vector<std::int64_t> costs, sizes;
  std::size_t items() const { return costs.size() / sizes.size(); }
};

Problem random_problem(std::int64_t items, std::int64_t bins, std::uint64_t seed,
                       std::uint64_t range) {
  const Philox random(seed, RandomPurpose::test);
  Problem p{{}, even_sizes(items, bins)};
  for (std::int64_t i = 0; i < items * bins; ++i)
    p.costs.push_back(std::int64_t(random.below(std::uint64_t(i), range)));
  return p;
}

std::int64_t cost_of(const Problem& p, const std::vector<std::int32_t>& labels) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < labels.size(); ++i)
    sum += p.costs[i * p.sizes.size() + std::size_t(labels[i])];
  return sum;
}

/// The least cost over every assignment with the right sizes.
std::int64_t brute_force(const Problem& p) {
  std::vector<std::int32_t> labels;
  for (std::size_t e = 0; e < p.sizes.size(); ++e)
    labels.insert(labels.end(), std::size_t(p.sizes[e]), std::int32_t(e));
  std::int64_t best = std::numeric_limits<std::int64_t>::max();
  do best = std::min(best, cost_of(p, labels));
  while (std::next_permutation(labels.begin(), labels.end()));
  return best;
}

void expect_valid_and_optimal(const Problem& p, const std::vector<std::int32_t>& labels,
                              const std::vector<std::int64_t>& prices) {
  std::vector<std::int64_t> counts(p.sizes.size(), 0);
  for (const std::int32_t e : labels) ++counts[std::size_t(e)];
  EXPECT_EQ(counts, p.sizes);
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const std::int64_t* row = p.costs.data() + i * p.sizes.size();
    const std::size_t own = std::size_t(labels[i]);
    for (std::size_t e = 0; e < p.sizes.size(); ++e)
      ASSERT_LE(row[own] + prices[own], row[e] + prices[e]) << "item " << i << ", bin " << e;
  }
}

TEST(BalancedAssignment, FindsTheLeastCostOfAllAssignments) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const Problem p = random_problem(8, 3, seed, seed % 2 ? 1000 : 4);
    std::vector<std::int64_t> prices(3, 0);
    const auto labels = balanced_assignment(p.costs, p.sizes, prices);
    expect_valid_and_optimal(p, labels, prices);
    EXPECT_EQ(cost_of(p, labels), brute_force(p)) << "seed " << seed;
  }
}

TEST(BalancedAssignment, FindsItWithOneLargeBinToo) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Problem p = random_problem(9, 3, seed, seed % 2 ? 1000 : 4);
    p.sizes = {2, 1, 6};
    std::vector<std::int64_t> prices(3, 0);
    const auto labels = balanced_assignment(p.costs, p.sizes, prices);
    expect_valid_and_optimal(p, labels, prices);
    EXPECT_EQ(cost_of(p, labels), brute_force(p)) << "seed " << seed;
  }
}

// Neurons of a layer: what each expert's tokens lose without one is less than what all tokens
// lose, and only a quarter of them can be shared.
TEST(BalancedAssignment, SharesTheNeuronsOfALargeLayerOptimally) {
  const Philox random(3, RandomPurpose::test);
  Problem p{{}, std::vector<std::int64_t>(12, 344)};
  p.sizes.push_back(1376);
  for (std::uint64_t i = 0; i < 5504; ++i) {
    const double energy = std::exp(1.5 * random.normal(i));
    for (std::uint64_t e = 0; e < 12; ++e) {
      const double share = 0.3 + 0.03 * random.normal(10000 + 16 * i + e) + (e == i % 5 ? 0.3 : 0);
      p.costs.push_back(-std::llround(energy * share * 0x1p30));
    }
    p.costs.push_back(-std::llround(energy * 0x1p30));
  }
  std::vector<std::int64_t> prices(13, 0);
  expect_valid_and_optimal(p, balanced_assignment(p.costs, p.sizes, prices), prices);
}

TEST(BalancedAssignment, PricesProveTheOptimumOfALargeProblem) {
  Problem p = random_problem(5000, 16, 7, 1'000'000);
  for (std::size_t i = 0; i < p.items(); ++i) p.costs[i * 16 + i % 3] /= 2;  // three popular bins
  std::vector<std::int64_t> prices(16, 0);
  const auto labels = balanced_assignment(p.costs, p.sizes, prices);
  expect_valid_and_optimal(p, labels, prices);

  std::vector<std::int64_t> warm = prices, wild(16, 0);
  wild[3] = -900'000;
  EXPECT_EQ(cost_of(p, balanced_assignment(p.costs, p.sizes, warm)), cost_of(p, labels));
  EXPECT_EQ(cost_of(p, balanced_assignment(p.costs, p.sizes, wild)), cost_of(p, labels));
}

TEST(BalancedAssignment, EqualCostsStillGiveTheRightSizes) {
  const Problem p{std::vector<std::int64_t>(10 * 4, 5), even_sizes(10, 4)};
  std::vector<std::int64_t> prices(4, 0);
  expect_valid_and_optimal(p, balanced_assignment(p.costs, p.sizes, prices), prices);
}

}  // namespace
}  // namespace moe
