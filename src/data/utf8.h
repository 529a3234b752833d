// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace moe {

/// U+FFFD, which stands for what is not UTF-8.
inline constexpr std::string_view kReplacementCharacter = "\xef\xbf\xbd";

/// Bytes of the character that begins with `lead`, in valid UTF-8.
inline std::size_t utf8_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

inline bool is_utf8_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0) == 0x80;
}

/// The character that begins at `bytes`, in valid UTF-8.
inline char32_t utf8_character(const char* bytes) {
  const auto at = [bytes](int i) { return char32_t(static_cast<unsigned char>(bytes[i])); };
  switch (utf8_length(*bytes)) {
    case 1:
      return at(0);
    case 2:
      return (at(0) & 0x1f) << 6 | (at(1) & 0x3f);
    case 3:
      return (at(0) & 0x0f) << 12 | (at(1) & 0x3f) << 6 | (at(2) & 0x3f);
    default:
      return (at(0) & 0x07) << 18 | (at(1) & 0x3f) << 12 | (at(2) & 0x3f) << 6 | (at(3) & 0x3f);
  }
}

/// Bytes of the longest valid beginning of `text`: text.size() where all is valid.
std::size_t valid_utf8_prefix(std::string_view text);

/// How many U+FFFD stand for the beginning of a character whose rest is missing.
enum class Replace { each_byte, each_beginning };

/// Appends `bytes` to `text`, with U+FFFD for what is not UTF-8. With `more_follows` the bytes at
/// the end that may still become a character are left out. Returns how many bytes were consumed.
std::size_t append_utf8(std::string_view bytes, Replace replace, bool more_follows,
                        std::string& text);

}  // namespace moe
