// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace moe::test {

/// What is wrong with the markup: tags that do not nest, attributes without quotes, a stray < or &;
/// empty: nothing. Understands what our pages use: no comments, and elements that stand alone end
/// in "/>".
inline std::string markup_fault(const std::string& html) {
  std::vector<std::string> open;
  std::size_t i = html.starts_with("<!doctype html>") ? 15 : 0;
  const auto near = [&] { return " near '" + html.substr(i, 40) + "'"; };
  while (i < html.size()) {
    if (html[i] == '&') {
      const std::size_t end = html.find(';', i);
      if (end == std::string::npos || end - i > 6) return "stray &" + near();
    }
    if (html[i] == '>') return "stray >" + near();
    if (html[i] != '<') {
      ++i;
      continue;
    }
    const std::size_t start = i + 1;
    bool quoted = false;
    std::size_t end = start;
    for (; end < html.size() && (quoted || html[end] != '>'); ++end) {
      if (html[end] == '"') quoted = !quoted;
      if (html[end] == '<') return "< within a tag" + near();
      if (!quoted && html[end] == '=' && html[end + 1] != '"') return "= without quotes" + near();
    }
    if (end == html.size()) return "a tag without end" + near();
    const std::string tag = html.substr(start, end - start);
    const std::string name = tag.substr(0, tag.find_first_of(" \n/", 1));
    if (tag.starts_with("/")) {
      if (open.empty() || "/" + open.back() != name)
        return name + " closes " + (open.empty() ? "nothing" : open.back()) + near();
      open.pop_back();
    } else if (!tag.ends_with("/")) {
      open.push_back(name);
    }
    i = end + 1;
    if (!open.empty() && (open.back() == "style" || open.back() == "script"))
      i = html.find("</" + open.back() + ">", i);
  }
  return open.empty() ? "" : open.back() + " stays open";
}

}  // namespace moe::test
