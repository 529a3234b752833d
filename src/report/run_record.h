// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace moe {

/// What a run's folder says of it. Numbers are kept by the names they have in metrics.jsonl,
/// whatever these are: "loss", "domain_loss/web", "router_entropy/3", "expert_load/3/7".
struct RunRecord {
  /// Numbers that not every line has; what is no number is left out.
  struct Series {
    std::vector<std::size_t> rows;  // ascending: indices into steps and tokens
    std::vector<double> values;
  };
  struct Event {
    std::size_t row = 0;
    std::string text;
  };

  std::filesystem::path folder;
  std::string name;                   // the folder's own
  std::vector<double> steps, tokens;  // of each line, ascending
  std::map<std::string, Series> series;
  std::vector<Event> skipped, rollbacks;
  std::vector<std::pair<std::string, std::string>> config;  // config.yaml by whole keys
  std::string state;               // "complete", "interrupted", "goes on", ...; empty: unknown
  std::vector<std::string> notes;  // what could not be read, for people

  /// nullptr when no line has it.
  const Series* find(const std::string& name) const;
  /// What stands behind `prefix` in the names of the series: the domains of "domain_loss/".
  std::vector<std::string> names_below(const std::string& prefix) const;
  /// How many series PREFIX0, PREFIX1, ... there are.
  std::size_t count_below(const std::string& prefix) const;
  /// The mean, over the series below `prefix` that a line has, of each line that has any.
  Series mean_below(const std::string& prefix) const;
};

/// Reads metrics.jsonl, config.yaml and heartbeat.json of a run that has ended or goes on. Lines
/// that cannot be read are left out with a note that names them. Throws InputError when there is no
/// metrics.jsonl.
RunRecord read_run(const std::filesystem::path& folder);

}  // namespace moe
