// SPDX-License-Identifier: Apache-2.0
#include "data/word_cache.h"

#include <gtest/gtest.h>

#include <string>

namespace moe {
namespace {

TEST(WordCache, GivesAWordsOwnIdsOrNothing) {
  WordCache cache;
  // Four words for each place, and alike in all but a few bytes at the beginning, middle or end.
  const auto word = [](int i) {
    const std::string number = std::to_string(i / 3);
    const std::string place[] = {number + "-word", "some" + number + "words", "somewords" + number};
    return place[i % 3];
  };
  constexpr int kWords = 130000;
  for (int i = 0; i < kWords; ++i) cache.keep(word(i), std::vector<std::int32_t>{i, -i});
  int known = 0;
  for (int i = 0; i < kWords; ++i) {
    std::vector<std::int32_t> ids{7};
    if (!cache.append(word(i), ids)) continue;
    ++known;
    ASSERT_EQ(ids, (std::vector<std::int32_t>{7, i, -i})) << word(i);
  }
  EXPECT_GT(known, 25000);  // most places are taken
}

TEST(WordCache, TellsAWordFromOneWithZerosBehind) {
  WordCache cache;
  cache.keep("ab", std::vector<std::int32_t>{1});
  std::vector<std::int32_t> ids;
  EXPECT_FALSE(cache.append(std::string_view("ab\0", 3), ids));
  EXPECT_FALSE(cache.append(std::string_view("\0", 1), ids));
  EXPECT_TRUE(cache.append("ab", ids));
}

TEST(WordCache, LeavesOutWhatHasNoRoom) {
  WordCache cache;
  const std::string longest(WordCache::kLongest, 'x');
  std::vector<std::int32_t> ids;
  cache.keep(longest, std::vector<std::int32_t>(WordCache::kMostIds, 1));
  EXPECT_TRUE(cache.append(longest, ids));
  cache.keep(longest + "x", std::vector<std::int32_t>{1});
  EXPECT_FALSE(cache.append(longest + "x", ids));
  cache.keep("y", std::vector<std::int32_t>(WordCache::kMostIds + 1, 1));
  EXPECT_FALSE(cache.append("y", ids));
  EXPECT_EQ(ids.size(), WordCache::kMostIds);
}

}  // namespace
}  // namespace moe
