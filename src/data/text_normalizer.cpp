// SPDX-License-Identifier: Apache-2.0
#include "data/text_normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "data/utf8.h"

namespace moe {
namespace {

using Form = TextNormalizer::Form;

const icu::Normalizer2& normalizer(Form form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* found = form == Form::nfc    ? icu::Normalizer2::getNFCInstance(status)
                                  : form == Form::nfd  ? icu::Normalizer2::getNFDInstance(status)
                                  : form == Form::nfkc ? icu::Normalizer2::getNFKCInstance(status)
                                                       : icu::Normalizer2::getNFKDInstance(status);
  MOE_CHECK(U_SUCCESS(status) && found != nullptr,
            "ICU has no normal forms: ", u_errorName(status));
  return *found;
}

std::string_view strip(std::string_view text, TextNormalizer::Strip sides) {
  const auto space_at = [&](std::size_t at) {
    return u_isUWhiteSpace(UChar32(utf8_character(text.data() + at)));
  };
  while (sides.left && !text.empty() && space_at(0)) text.remove_prefix(utf8_length(text[0]));
  while (sides.right && !text.empty()) {
    std::size_t last = text.size() - 1;
    while (is_utf8_continuation(text[last])) --last;
    if (!space_at(last)) break;
    text = text.substr(0, last);
  }
  return text;
}

/// One step: the text itself, a part of it, or what it writes into `out`.
struct Apply {
  std::string_view text;
  bool at_beginning;
  TextNormalizer::Scratch& scratch;
  std::string& out;

  std::string_view operator()(const TextNormalizer::Prepend& step) const {
    if (text.empty() || (step.only_at_beginning && !at_beginning) ||
        (step.unless_there && text.starts_with(step.text)))
      return text;
    out = step.text;
    return out += text;
  }

  std::string_view operator()(const TextNormalizer::Replace& step) const {
    // Spaces are what is replaced nearly always, and for one byte there is a faster search.
    const auto find = [&](std::size_t from) {
      return step.from.size() == 1 ? text.find(step.from[0], from) : text.find(step.from, from);
    };
    std::size_t at = find(0);
    if (at == text.npos) return text;
    out.clear();
    std::size_t done = 0;
    for (; at != text.npos; at = find(done)) {
      out.append(text, done, at - done).append(step.to);
      done = at + step.from.size();
    }
    return out.append(text, done);
  }

  std::string_view operator()(const TextNormalizer::ReplacePattern& step) const {
    out.clear();
    std::size_t done = 0, from = 0;
    while (from <= text.size()) {
      const Regex::Range match = step.from.search(text, from, scratch.regex);
      if (match.begin == text.npos) break;
      out.append(text, done, match.begin - done).append(step.to);
      done = from = match.end;
      if (match.begin == match.end) from += from < text.size() ? utf8_length(text[from]) : 1;
    }
    return out.append(text, done);
  }

  std::string_view operator()(const TextNormalizer::Strip& step) const { return strip(text, step); }

  std::string_view operator()(Form form) const {
    const icu::Normalizer2& normal = normalizer(form);
    UErrorCode status = U_ZERO_ERROR;
    MOE_REQUIRE(text.size() < std::size_t{1} << 30, "a text of ", text.size(),
                " bytes is too long to be normalized: 1 GiB at most");
    const icu::StringPiece source(text.data(), std::int32_t(text.size()));
    if (normal.isNormalizedUTF8(source, status)) return text;
    out.clear();
    icu::StringByteSink<std::string> sink(&out);
    normal.normalizeUTF8(0, source, sink, nullptr, status);
    MOE_CHECK(U_SUCCESS(status), "ICU cannot normalize: ", u_errorName(status));
    return out;
  }
};

}  // namespace

std::string_view TextNormalizer::apply(std::string_view text, bool at_beginning,
                                       Scratch& scratch) const {
  for (const Step& step : steps_) {
    const std::string_view result =
        std::visit(Apply{text, at_beginning, scratch, scratch.next}, step);
    if (result.data() == scratch.next.data()) {
      std::swap(scratch.current, scratch.next);
      text = scratch.current;
    } else {
      text = result;
    }
  }
  return text;
}

}  // namespace moe
