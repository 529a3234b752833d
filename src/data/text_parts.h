// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

/// A text taken apart for measuring its quality. Words are what stands between white space; lines
/// and paragraphs (parted by blank lines) are without white space at both ends, and empty ones do
/// not count. Characters are code points. The text must outlive it.
class TextParts {
 public:
  explicit TextParts(std::string_view text);

  std::string_view text() const { return text_; }
  const std::vector<std::string_view>& words() const { return words_; }
  const std::vector<std::string_view>& lines() const { return lines_; }
  const std::vector<std::string_view>& paragraphs() const { return paragraphs_; }
  /// The text with A-Z made a-z.
  const std::string& lower() const;

 private:
  std::string_view text_;
  std::vector<std::string_view> words_, lines_, paragraphs_;
  mutable std::string lower_;
};

/// Code points of valid UTF-8.
std::int64_t characters_of(std::string_view text);
/// Whether there is a letter: A-Z, a-z, or beyond ASCII anything but the blocks of punctuation,
/// symbols and arrows.
bool has_letter(std::string_view word);

// Shares between 0 and 1 of the characters of all pieces (0 of none).

/// Of pieces that were there before.
double repeated_share(const std::vector<std::string_view>& pieces);
/// Of the run of n words that covers most, if it is there at least twice.
double top_run_share(const std::vector<std::string_view>& words, std::size_t n);
/// Of words within runs of n words that were there before.
double repeated_run_share(const std::vector<std::string_view>& words, std::size_t n);

}  // namespace moe
