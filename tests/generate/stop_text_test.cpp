// SPDX-License-Identifier: Apache-2.0
#include "generate/stop_text.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace moe {
namespace {

/// All of it, pushed in pieces of `size` bytes.
std::string shown(const std::string& text, const std::vector<std::string>& stops, std::size_t size,
                  bool* stopped = nullptr) {
  StopText stop(stops);
  std::string out;
  for (std::size_t i = 0; i < text.size(); i += size) out += stop.push(text.substr(i, size));
  out += stop.finish();
  if (stopped != nullptr) *stopped = stop.stopped();
  return out;
}

TEST(StopText, EndsBeforeTheFirstStopTextHoweverItIsCut) {
  for (std::size_t size = 1; size < 12; ++size) {
    bool stopped = false;
    EXPECT_EQ(shown("aab aabab\nQ: x", {"\nQ:", "abab"}, size, &stopped), "aab a") << size;
    EXPECT_TRUE(stopped);
    EXPECT_EQ(shown("aabaabaa", {"aabab"}, size, &stopped), "aabaabaa") << size;
    EXPECT_FALSE(stopped);
    EXPECT_EQ(shown("xyz", {}, size), "xyz") << size;
  }
}

TEST(StopText, HoldsBackOnlyWhatMayBeginAStopText) {
  StopText stop({"END"});
  EXPECT_EQ(stop.push("an E"), "an ");
  EXPECT_EQ(stop.push("N"), "");
  EXPECT_EQ(stop.push("E"), "EN");
  EXPECT_EQ(stop.push("ND rest"), "");
  EXPECT_TRUE(stop.stopped());
  EXPECT_EQ(stop.push("more"), "");
  EXPECT_EQ(stop.finish(), "");
}

TEST(StopText, RefusesAnEmptyStopText) { EXPECT_THROW(StopText({""}), InputError); }

}  // namespace
}  // namespace moe
