// SPDX-License-Identifier: Apache-2.0
#include "data/json_array.h"

#include "core/error.h"
#include "data/text_reader.h"

namespace moe {
namespace {

constexpr std::string_view kBlank = " \t\r\n";

}  // namespace

bool JsonArrayParts::begins(const std::string& line) {
  const std::size_t first = line.find_first_not_of(kBlank);
  if (first == line.npos || line[first] != '[') return false;
  line_ = line;
  at_ = first + 1;
  return true;
}

bool JsonArrayParts::refill() {
  at_ = 0;
  return lines_.next(line_);
}

bool JsonArrayParts::next(std::string& element, std::int64_t& line_number) {
  element.clear();
  int depth = 0;
  bool in_text = false, escaped = false;
  while (!ended_) {
    if (at_ >= line_.size()) {
      if (!element.empty()) element += '\n';
      MOE_REQUIRE(refill(), name_, ":", lines_.line_number(),
                  ": the JSON array does not end: the file is truncated");
      continue;
    }
    const char c = line_[at_++];
    if (element.empty() && kBlank.find(c) != kBlank.npos) continue;
    if (element.empty()) line_number = lines_.line_number();
    if (in_text) {
      in_text = escaped || c != '"';
      escaped = !escaped && c == '\\';
    } else if (depth == 0 && (c == ',' || c == ']')) {
      ended_ = c == ']';
      if (!ended_ || !element.empty()) return true;
      break;
    } else {
      in_text = c == '"';
      depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    }
    element += c;
  }
  do
    MOE_REQUIRE(line_.find_first_not_of(kBlank, at_) == line_.npos, name_, ":",
                lines_.line_number(), ": something follows the end of the JSON array");
  while (refill());
  return false;
}

}  // namespace moe
