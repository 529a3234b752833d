// SPDX-License-Identifier: Apache-2.0
#include "data/text_parts.h"

#include <algorithm>
#include <bit>

#include "data/checksum.h"

namespace moe {
namespace {

constexpr std::string_view kSpace = " \t\r\n\f\v";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) + 1 - first);
}

/// How often each 64-bit key was counted. Open addressing: a text has many runs of words.
class KeyCounts {
 public:
  explicit KeyCounts(std::size_t keys) : slots_(std::bit_ceil(2 * keys + 2)) {}

  /// Counts it once more and gives how often it was counted by now.
  std::int32_t add(std::uint64_t key) {
    for (std::size_t at = key;; ++at) {
      Slot& slot = slots_[at & (slots_.size() - 1)];
      if (slot.count > 0 && slot.key != key) continue;
      slot.key = key;
      return ++slot.count;
    }
  }

 private:
  struct Slot {
    std::uint64_t key = 0;
    std::int32_t count = 0;
  };
  std::vector<Slot> slots_;
};

std::int64_t sum(const std::vector<std::int64_t>& values) {
  std::int64_t total = 0;
  for (const std::int64_t value : values) total += value;
  return total;
}

std::vector<std::int64_t> sizes_of(const std::vector<std::string_view>& pieces) {
  std::vector<std::int64_t> sizes;
  sizes.reserve(pieces.size());
  for (const std::string_view piece : pieces) sizes.push_back(characters_of(piece));
  return sizes;
}

/// A key for each run of n words, by the number of its first.
std::vector<std::uint64_t> keys_of_runs(const std::vector<std::string_view>& words, std::size_t n) {
  std::vector<std::uint64_t> hashes, keys;
  for (const std::string_view word : words) hashes.push_back(checksum(word));
  for (std::size_t i = 0; i + n <= words.size(); ++i)
    keys.push_back(checksum(hashes.data() + i, n * sizeof hashes[0]));
  return keys;
}

}  // namespace

TextParts::TextParts(std::string_view text) : text_(text) {
  for (std::size_t at = 0; (at = text.find_first_not_of(kSpace, at)) != text.npos;) {
    const std::size_t end = std::min(text.find_first_of(kSpace, at), text.size());
    words_.push_back(text.substr(at, end - at));
    at = end;
  }
  const char* paragraph = nullptr;
  const char* paragraph_end = nullptr;
  const auto end_paragraph = [&] {
    if (paragraph != nullptr) paragraphs_.emplace_back(paragraph, paragraph_end - paragraph);
    paragraph = nullptr;
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t newline = std::min(text.find('\n', at), text.size());
    const std::string_view line = trimmed(text.substr(at, newline - at));
    if (line.empty()) {
      end_paragraph();
    } else {
      lines_.push_back(line);
      if (paragraph == nullptr) paragraph = line.data();
      paragraph_end = line.data() + line.size();
    }
    at = newline + 1;
  }
  end_paragraph();
}

const std::string& TextParts::lower() const {
  if (lower_.empty()) {
    lower_ = text_;
    for (char& c : lower_)
      if (c >= 'A' && c <= 'Z') c = char(c + 'a' - 'A');
  }
  return lower_;
}

std::int64_t characters_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

bool has_letter(std::string_view word) {
  for (std::size_t i = 0; i < word.size(); ++i) {
    const auto c = static_cast<unsigned char>(word[i]);
    if ((c | 32) >= 'a' && (c | 32) <= 'z' && c < 0x80) return true;
    if (c < 0xc3) continue;                 // ASCII, the middle of a character, U+0080 to U+00BF
    if (c < 0xe2 || c > 0xef) return true;  // up to U+1FFF; beyond U+FFFF
    // U+2000 to U+2BFF: punctuation, symbols, arrows; U+3000 to U+303F: punctuation.
    const unsigned char next = i + 1 < word.size() ? static_cast<unsigned char>(word[i + 1]) : 0;
    if (!(c == 0xe2 && next < 0xb0) && !(c == 0xe3 && next == 0x80)) return true;
  }
  return false;
}

double repeated_share(const std::vector<std::string_view>& pieces) {
  const std::vector<std::int64_t> sizes = sizes_of(pieces);
  KeyCounts counts(pieces.size());
  std::int64_t repeated = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i)
    if (counts.add(checksum(pieces[i])) > 1) repeated += sizes[i];
  return repeated == 0 ? 0 : double(repeated) / double(sum(sizes));
}

double top_run_share(const std::vector<std::string_view>& words, std::size_t n) {
  const std::vector<std::int64_t> sizes = sizes_of(words);
  const std::vector<std::uint64_t> keys = keys_of_runs(words, n);
  KeyCounts counts(keys.size());
  std::int64_t most = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::int32_t count = counts.add(keys[i]);
    if (count < 2) continue;
    std::int64_t size = 0;
    for (std::size_t w = i; w < i + n; ++w) size += sizes[w];
    most = std::max(most, size * count);
  }
  // Runs that overlap themselves count more than once.
  return most == 0 ? 0 : std::min(1.0, double(most) / double(sum(sizes)));
}

double repeated_run_share(const std::vector<std::string_view>& words, std::size_t n) {
  const std::vector<std::int64_t> sizes = sizes_of(words);
  const std::vector<std::uint64_t> keys = keys_of_runs(words, n);
  KeyCounts counts(keys.size());
  std::int64_t repeated = 0;
  std::size_t covered = 0;  // words before it are counted already
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (counts.add(keys[i]) < 2) continue;
    for (std::size_t w = std::max(i, covered); w < i + n; ++w) repeated += sizes[w];
    covered = i + n;
  }
  return repeated == 0 ? 0 : double(repeated) / double(sum(sizes));
}

}  // namespace moe
