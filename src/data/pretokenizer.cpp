// SPDX-License-Identifier: Apache-2.0
#include "data/pretokenizer.h"

#include <utility>

#include "data/utf8.h"

namespace moe {
namespace {

/// Appends the words that `split` makes of `text`.
void append_words(const Split& split, std::string_view text, Regex::Scratch& scratch,
                  Pretokenizer::Words& words) {
  using Behavior = Split::Behavior;
  const std::size_t first_word = words.size();
  bool last_matched = false;  // the part before this one was a match
  bool joins_next = false;    // the last word waits for what follows
  const auto add = [&](std::size_t begin, std::size_t end, bool match) {
    if (begin == end) return;
    match = match != split.invert;
    const bool joins_last =
        (joins_next && !match) ||
        (words.size() > first_word &&
         ((split.behavior == Behavior::with_previous && match && !last_matched) ||
          (split.behavior == Behavior::contiguous && match == last_matched)));
    if (split.behavior == Behavior::removed && match) {
    } else if (joins_last) {
      std::string_view& last = words.back();
      last = {last.data(), last.size() + (end - begin)};
    } else {
      words.push_back(text.substr(begin, end - begin));
    }
    joins_next = split.behavior == Behavior::with_next && match;
    last_matched = match;
  };
  std::size_t done = 0;
  for (std::size_t from = 0; from < text.size();) {
    const Regex::Range match = split.pattern.search(text, from, scratch);
    if (match.begin == std::string_view::npos) break;
    add(done, match.begin, false);
    add(match.begin, match.end, true);
    done = match.end;
    from = match.end;
    if (match.begin == match.end) {  // of nothing: goes on behind the next character
      if (from == text.size()) break;
      from += utf8_length(text[from]);
    }
  }
  add(done, text.size(), false);
}

}  // namespace

const Pretokenizer::Words& Pretokenizer::words(std::string_view text, Scratch& scratch) const {
  scratch.words.clear();
  if (!text.empty()) scratch.words.push_back(text);
  for (const Split& split : splits_) {
    scratch.parts.clear();
    for (const std::string_view part : scratch.words)
      append_words(split, part, scratch.regex, scratch.parts);
    std::swap(scratch.words, scratch.parts);
  }
  return scratch.words;
}

}  // namespace moe
