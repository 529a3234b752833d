// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

namespace moe {

/// What becomes of documents whose set has no domain.
enum class UnknownSets { stop, skip, keep };

/// Which domain the documents of a raw corpus belong to, by a name in each line.
struct SetNames {
  /// Where a line has the name: "meta.redpajama_set_name", keys with dots between them.
  std::string field = "meta.redpajama_set_name";
  /// Set name to domain. Begins with SlimPajama's seven and LLaMA-MoE's names for them.
  std::map<std::string, std::string> domains = slimpajama();
  UnknownSets unknown = UnknownSets::stop;

  static std::map<std::string, std::string> slimpajama();

  /// The domain of a set; empty: documents of it are left out. With UnknownSets::keep an unknown
  /// set is a domain of its own, named like it with '_' for what does not suit a file name. Throws
  /// InputError beginning with `where` for an unknown set that must not be.
  std::string domain_of(const std::string& set, const std::string& where) const;
};

/// Whether a domain of this name can have files and folders named after it.
bool is_file_name(const std::string& domain);

/// "NAME=DOMAIN" into the map. Throws InputError.
void add_set_name(const std::string& assignment, std::map<std::string, std::string>& domains);

/// "stop", "skip" or "keep". Throws InputError.
UnknownSets parse_unknown_sets(const std::string& text);

}  // namespace moe
