// SPDX-License-Identifier: Apache-2.0
#include "report/run_differences.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "report/html_page.h"

namespace moe {
namespace {

/// In the order of the first run that has each.
std::vector<std::string> all_keys(std::span<const RunRecord> runs) {
  std::vector<std::string> keys;
  for (const RunRecord& run : runs)
    for (const auto& [key, value] : run.config)
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  return keys;
}

const std::string* value_of(const RunRecord& run, const std::string& key) {
  for (const auto& [name, value] : run.config)
    if (name == key) return &value;
  return nullptr;
}

}  // namespace

std::string differences_html(std::span<const RunRecord> runs) {
  const bool several = runs.size() > 1;
  std::string rows;
  for (const std::string& key : all_keys(runs)) {
    std::string cells;
    bool same = true;
    const std::string* first = value_of(runs.front(), key);
    for (const RunRecord& run : runs) {
      const std::string* value = value_of(run, key);
      same = same && (value == nullptr) == (first == nullptr) && (!value || *value == *first);
      cells += "<td class=\"value\">" + html_escape(value ? *value : "\xE2\x80\x93") + "</td>";
    }
    if (several && same) continue;
    rows += "<tr><td class=\"text\">" + html_escape(key) + "</td>" + cells + "</tr>\n";
  }
  if (rows.empty()) return {};
  std::string head = "<tr><th class=\"text\">key</th>";
  for (const RunRecord& run : runs)
    head += "<th class=\"text\">" + html_escape(several ? run.name : "value") + "</th>";
  const std::string table =
      "<div class=\"scroll\"><table>\n" + head + "</tr>\n" + rows + "</table></div>\n";
  if (!several) return "<details>\n<summary>Configuration</summary>\n" + table + "</details>\n";
  return html_figure("What the configurations differ in", table,
                     "Keys of config.yaml with different values.");
}

}  // namespace moe
