// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <nlohmann/json.hpp>

#include "data/data_test_support.h"

namespace moe {

/// SlimPajama's names of its sets and the domains that they become.
inline const std::map<std::string, std::string> kSevenSets = {
    {"RedPajamaArXiv", "en_arxiv"},
    {"RedPajamaBook", "en_book"},
    {"RedPajamaC4", "en_c4"},
    {"RedPajamaCommonCrawl", "en_cc"},
    {"RedPajamaGithub", "github"},
    {"RedPajamaStackExchange", "en_stack"},
    {"RedPajamaWikipedia", "en_wikipedia"}};

/// A line as SlimPajama has it.
inline std::string raw_line(const std::string& set, const std::string& text) {
  return nlohmann::json{{"text", text}, {"meta", {{"redpajama_set_name", set}}}}.dump() + "\n";
}

/// `count` lines of random words, of random sets.
inline std::vector<std::string> raw_lines(std::int64_t count, std::uint64_t seed = 1) {
  const Philox random(seed, RandomPurpose::test);
  std::vector<std::string> sets, lines;
  for (const auto& [set, domain] : kSevenSets) sets.push_back(set);
  std::uint64_t draw = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    std::string text = str("document ", i);
    for (std::uint64_t words = random.below(draw++, 200); words > 0; --words)
      text += str(" w", random.below(draw++, 5000));
    lines.push_back(raw_line(sets[random.below(draw++, sets.size())], text));
  }
  return lines;
}

/// Every file below a folder and its bytes.
inline std::map<std::string, std::string> files_below(const std::filesystem::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file())
      files[std::filesystem::relative(entry.path(), folder)] = read_bytes(entry.path());
  return files;
}

}  // namespace moe
