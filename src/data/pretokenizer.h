// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

#include "data/regex.h"

namespace moe {

/// Matches of a pattern, or with `invert` what is between them, part a text in words. What becomes
/// of them is the behavior: words of their own, dropped, put to the word before or behind, or one
/// word for each run of them.
struct Split {
  enum class Behavior { isolated, removed, with_previous, with_next, contiguous };
  Regex pattern;
  Behavior behavior = Behavior::isolated;
  bool invert = false;
};

/// Cuts texts into words by one split after the other.
class Pretokenizer {
 public:
  using Words = std::vector<std::string_view>;
  struct Scratch {
    Regex::Scratch regex;
    Words words, parts;
  };

  /// Without splits a text is one word.
  explicit Pretokenizer(std::vector<Split> splits) : splits_(std::move(splits)) {}

  /// The words of `text`, valid UTF-8, in order and none of them empty. They live as long as the
  /// text and until the next call with this scratch.
  const Words& words(std::string_view text, Scratch& scratch) const;

 private:
  std::vector<Split> splits_;
};

}  // namespace moe
