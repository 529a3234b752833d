// SPDX-License-Identifier: Apache-2.0
#include "data/utf8.h"

#include <cstdint>
#include <cstring>

namespace moe {
namespace {

struct Sequence {
  std::size_t length;  // bytes of the character, or of the longest beginning of one; at least 1
  enum { complete, cut_short, invalid } state;
};

/// What stands at the beginning of `bytes`, which are not empty (Unicode 15, table 3-7).
Sequence first_sequence(std::string_view bytes) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned lead = at(0);
  if (lead < 0x80) return {1, Sequence::complete};
  if (lead < 0xc2 || lead > 0xf4) return {1, Sequence::invalid};
  const std::size_t length = utf8_length(bytes[0]);
  // No overlong forms, no surrogates, nothing beyond U+10FFFF.
  const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {i, Sequence::cut_short};
    if (at(i) < (i == 1 ? low : 0x80) || at(i) > (i == 1 ? high : 0xbf))
      return {i, Sequence::invalid};
  }
  return {length, Sequence::complete};
}

}  // namespace

std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t eight;
    if (at + sizeof eight <= text.size()) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        at += sizeof eight;
        continue;
      }
    }
    const Sequence next = first_sequence(text.substr(at));
    if (next.state != Sequence::complete) break;
    at += next.length;
  }
  return at;
}

std::size_t append_utf8(std::string_view bytes, Replace replace, bool more_follows,
                        std::string& text) {
  std::size_t at = 0;
  while (true) {
    const std::size_t valid = valid_utf8_prefix(bytes.substr(at));
    text += bytes.substr(at, valid);
    at += valid;
    if (at == bytes.size()) return at;
    const Sequence next = first_sequence(bytes.substr(at));
    if (more_follows && next.state == Sequence::cut_short) return at;
    for (std::size_t i = 0; i < (replace == Replace::each_byte ? next.length : 1); ++i)
      text += kReplacementCharacter;
    at += next.length;
  }
}

}  // namespace moe
