// SPDX-License-Identifier: Apache-2.0
#include "data/best_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"

namespace moe {
namespace {

/// The same by its definition: every bin is looked at for every item.
std::vector<std::vector<std::int64_t>> plain_best_fit(const std::vector<std::int32_t>& sizes,
                                                      std::int32_t capacity) {
  std::vector<std::int64_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return sizes[std::size_t(a)] > sizes[std::size_t(b)];
  });
  std::vector<std::vector<std::int64_t>> bins;
  std::vector<std::int32_t> room;
  for (const std::int64_t item : order) {
    const std::int32_t size = sizes[std::size_t(item)];
    std::size_t best = bins.size();
    for (std::size_t b = 0; b < bins.size(); ++b)
      if (room[b] >= size && (best == bins.size() || room[b] < room[best])) best = b;
    if (best == bins.size()) bins.emplace_back(), room.push_back(capacity);
    bins[best].push_back(item);
    room[best] -= size;
  }
  return bins;
}

TEST(BestFit, HoldsEveryItemOnceInAsManyBinsAsTheDefinitionGives) {
  const Philox random(1, RandomPurpose::test);
  std::uint64_t draw = 0;
  for (const std::int32_t capacity : {1, 2, 63, 64, 65, 100, 1000}) {
    for (const std::size_t count : {0u, 1u, 2u, 50u, 700u}) {
      std::vector<std::int32_t> sizes(count);
      for (auto& s : sizes) s = std::int32_t(1 + random.below(draw++, std::uint64_t(capacity)));
      const Bins bins = best_fit(sizes, capacity);
      const auto plain = plain_best_fit(sizes, capacity);
      EXPECT_EQ(bins.count(), std::int64_t(plain.size()));
      std::vector<int> seen(count);
      std::vector<std::int64_t> filled, plainly_filled;
      for (std::int64_t b = 0; b < bins.count(); ++b) {
        std::int64_t total = 0;
        for (const std::int64_t i : bins.bin(b)) {
          ++seen[std::size_t(i)];
          total += sizes[std::size_t(i)];
        }
        EXPECT_LE(total, capacity);
        EXPECT_GT(total, 0);
        filled.push_back(total);
      }
      for (const auto& bin : plain)
        plainly_filled.push_back(std::accumulate(
            bin.begin(), bin.end(), std::int64_t{0},
            [&](std::int64_t t, std::int64_t i) { return t + sizes[std::size_t(i)]; }));
      std::sort(filled.begin(), filled.end());
      std::sort(plainly_filled.begin(), plainly_filled.end());
      EXPECT_EQ(filled, plainly_filled);
      EXPECT_EQ(seen, std::vector<int>(count, 1));
    }
  }
}

TEST(BestFit, TakesTheFullestBinThatHasRoom) {
  // 7 and 6 open bins; 3 fits the first exactly, 4 the second.
  const Bins bins = best_fit(std::vector<std::int32_t>{4, 7, 3, 6}, 10);
  ASSERT_EQ(bins.count(), 2);
  EXPECT_EQ(std::vector<std::int64_t>(bins.bin(0).begin(), bins.bin(0).end()),
            (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(std::vector<std::int64_t>(bins.bin(1).begin(), bins.bin(1).end()),
            (std::vector<std::int64_t>{3, 0}));
}

TEST(BestFit, RefusesItemsThatNoBinHolds) {
  EXPECT_THROW(best_fit(std::vector<std::int32_t>{5}, 4), Error);
  EXPECT_THROW(best_fit(std::vector<std::int32_t>{0}, 4), Error);
}

}  // namespace
}  // namespace moe
