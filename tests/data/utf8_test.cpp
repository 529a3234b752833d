// SPDX-License-Identifier: Apache-2.0
#include "data/utf8.h"

#include <gtest/gtest.h>

namespace moe {
namespace {

std::string encoded(char32_t c) {
  std::string bytes;
  if (c < 0x80) return {char(c)};
  if (c >= 0x10000) {
    bytes = {char(0xf0 | c >> 18), char(0x80 | (c >> 12 & 0x3f))};
  } else if (c >= 0x800) {
    bytes = {char(0xe0 | c >> 12)};
  }
  bytes += c >= 0x800 ? char(0x80 | (c >> 6 & 0x3f)) : char(0xc0 | c >> 6);
  return bytes + char(0x80 | (c & 0x3f));
}

std::string repaired(std::string_view bytes, Replace replace) {
  std::string text;
  append_utf8(bytes, replace, false, text);
  return text;
}

TEST(Utf8, ReadsEveryCharacter) {
  for (char32_t c = 0; c <= 0x10ffff; ++c) {
    const std::string bytes = encoded(c);
    const bool surrogate = c >= 0xd800 && c < 0xe000;
    ASSERT_EQ(valid_utf8_prefix(bytes), surrogate ? 0 : bytes.size()) << std::uint32_t(c);
    if (surrogate) continue;
    ASSERT_EQ(utf8_length(bytes[0]), bytes.size());
    ASSERT_EQ(utf8_character(bytes.data()), c);
  }
}

TEST(Utf8, StopsAtTheFirstInvalidByte) {
  EXPECT_EQ(valid_utf8_prefix("0123456789abcdef\xff"), 16u);
  EXPECT_EQ(valid_utf8_prefix("01234\xc3\xa4 789\xe4\xb8"), 11u);
  EXPECT_EQ(valid_utf8_prefix("\xc0\x80"), 0u);
  EXPECT_EQ(valid_utf8_prefix("\xe0\x9f\xbf"), 0u);
  EXPECT_EQ(valid_utf8_prefix("\xf4\x90\x80\x80"), 0u);
}

TEST(Utf8, ReplacesBytesOrBeginningsOfCharacters) {
  EXPECT_EQ(repaired("a\xe4\xb8z", Replace::each_byte), "a\ufffd\ufffdz");
  EXPECT_EQ(repaired("a\xe4\xb8z", Replace::each_beginning), "a\ufffdz");
  EXPECT_EQ(repaired("\xf0\x9f\x98", Replace::each_byte), "\ufffd\ufffd\ufffd");
  EXPECT_EQ(repaired("\xf0\x9f\x98", Replace::each_beginning), "\ufffd");
  EXPECT_EQ(repaired("\xed\xa0\x80", Replace::each_beginning), "\ufffd\ufffd\ufffd");
}

TEST(Utf8, LeavesWhatMayStillBecomeACharacter) {
  std::string text;
  EXPECT_EQ(append_utf8("ab\xf0\x9f", Replace::each_byte, true, text), 2u);
  EXPECT_EQ(text, "ab");
  EXPECT_EQ(append_utf8("\xf0\x9f\x98\x80\xf0\x41\xe4", Replace::each_byte, true, text), 6u);
  EXPECT_EQ(text,
            "ab\U0001f600\ufffd"
            "A");
}

}  // namespace
}  // namespace moe
