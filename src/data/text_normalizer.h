// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "data/regex.h"

namespace moe {

/// What tokenizers do to a text before they cut it into words: steps, one after the other.
class TextNormalizer {
 public:
  /// Puts `text` before what is not empty.
  struct Prepend {
    std::string text;
    bool unless_there = false;       // not before a text that begins with it
    bool only_at_beginning = false;  // only where a document begins, not behind an added token
  };
  struct Replace {
    std::string from, to;  // `from` is not empty
  };
  struct ReplacePattern {
    Regex from;
    std::string to;
  };
  /// Leaves out white space at the ends.
  struct Strip {
    bool left, right;
  };
  /// Unicode's normal forms.
  enum class Form { nfc, nfd, nfkc, nfkd };
  using Step = std::variant<Prepend, Replace, ReplacePattern, Strip, Form>;

  struct Scratch {
    Regex::Scratch regex;
    std::string current, next;
  };

  explicit TextNormalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  bool empty() const { return steps_.empty(); }
  /// `text` is valid UTF-8. The result lives as long as the text and until the next call with this
  /// scratch.
  std::string_view apply(std::string_view text, bool at_beginning, Scratch& scratch) const;

 private:
  std::vector<Step> steps_;
};

}  // namespace moe
