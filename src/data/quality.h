// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

/// Bounds of a measure; both are inside.
struct QualityBounds {
  std::optional<double> min, max;
};

/// Rules for some domains.
struct QualityRules {
  std::vector<std::string> domains;             // "*": every domain that no rules before these name
  std::map<std::string, QualityBounds> bounds;  // by the name of a measure
};

/// Says which documents are not fit to train on: for every domain, measures of a text and their
/// bounds. The measures are listed in docs/data_quality.md, ready rules in configs/data.
class QualityFilter {
 public:
  /// Reads rules from YAML. Throws InputError, naming file and line.
  static QualityFilter read(const std::filesystem::path& file);
  static QualityFilter parse(const std::string& yaml, const std::string& name);

  /// The first bound that the text breaks ("words < 50"); empty: none, or no rules for the domain.
  /// Safe from many threads.
  std::string reason_against(const std::string& domain, std::string_view text) const;

  /// The rules as YAML, all that the reasons depend on.
  const std::string& yaml() const { return yaml_; }

  struct Measure {
    std::string name, doc;
  };
  static std::vector<Measure> measures();

 private:
  std::vector<QualityRules> rules_;
  std::vector<std::string> boilerplate_, forbidden_;
  std::string yaml_;
};

}  // namespace moe
