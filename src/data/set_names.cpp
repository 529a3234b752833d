// SPDX-License-Identifier: Apache-2.0
#include "data/set_names.h"

#include <algorithm>
#include <cctype>

#include "core/error.h"

namespace moe {
namespace {

bool suits_file_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.';
}

}  // namespace

std::map<std::string, std::string> SetNames::slimpajama() {
  return {{"RedPajamaArXiv", "en_arxiv"},
          {"RedPajamaBook", "en_book"},
          {"RedPajamaC4", "en_c4"},
          {"RedPajamaCommonCrawl", "en_cc"},
          {"RedPajamaGithub", "github"},
          {"RedPajamaStackExchange", "en_stack"},
          {"RedPajamaWikipedia", "en_wikipedia"}};
}

std::string SetNames::domain_of(const std::string& set, const std::string& where) const {
  if (const auto known = domains.find(set); known != domains.end()) return known->second;
  if (unknown == UnknownSets::skip) return {};
  MOE_REQUIRE(unknown == UnknownSets::keep && !set.empty(), where, ": unknown set name '", set,
              "' in ", field, "; name its domain (--set '", set,
              "=DOMAIN'), or choose --unknown-sets skip or keep");
  std::string domain = set.substr(0, 200);
  for (char& c : domain)
    if (!suits_file_name(c)) c = '_';
  if (domain.front() == '.' || domain.front() == '-') domain.front() = '_';
  return domain;
}

bool is_file_name(const std::string& domain) {
  return !domain.empty() && domain.size() <= 200 && domain.front() != '.' &&
         domain.front() != '-' && std::all_of(domain.begin(), domain.end(), suits_file_name);
}

void add_set_name(const std::string& assignment, std::map<std::string, std::string>& domains) {
  const std::size_t equals = assignment.rfind('=');
  MOE_REQUIRE(equals != assignment.npos && equals > 0, "--set ", assignment,
              ": give NAME=DOMAIN, for example RedPajamaC4=web");
  const std::string domain = assignment.substr(equals + 1);
  MOE_REQUIRE(is_file_name(domain), "--set ", assignment, ": '", domain,
              "' cannot name a file; use letters, digits, '_', '-' and '.'");
  domains[assignment.substr(0, equals)] = domain;
}

UnknownSets parse_unknown_sets(const std::string& text) {
  if (text == "stop") return UnknownSets::stop;
  if (text == "skip") return UnknownSets::skip;
  MOE_REQUIRE(text == "keep", "--unknown-sets ", text, ": give stop, skip or keep");
  return UnknownSets::keep;
}

}  // namespace moe
