// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "report/run_record.h"

namespace moe {

/// Where a run stands. Numbers that the run has not are empty.
struct RunSummary {
  std::string folder, name, state;
  std::int64_t steps = 0, tokens = 0;
  std::optional<double> loss;                          // mean of the last lines, 20 at most
  std::int64_t loss_lines = 0;                         // how many these are
  std::map<std::string, double> held_out;              // the last evaluation's, by domain
  std::optional<double> held_out_mean, held_out_best;  // means over domains: of the last, the least
  std::int64_t held_out_step = 0;
  std::optional<double> tokens_per_second, flops_per_second;  // medians
  std::optional<double> seconds;                              // of all steps together
  std::optional<double> load_max_over_mean;  // mean over layers and the last lines, 20 at most
  std::int64_t skipped = 0, rollbacks = 0;
  std::vector<std::string> notes;
};

RunSummary summary_of(const RunRecord& run);

/// A few lines for a terminal.
std::string to_text(const RunSummary& summary);

/// {"runs": [...], "output": FILE or null} in one line, keys as in RunSummary.
std::string to_json(std::span<const RunSummary> runs, const std::string& output);

/// Names and numbers of the runs, for people: tiles of one run, a table of several.
std::string summary_html(std::span<const RunSummary> runs);

/// Held-out loss and perplexity of each domain at the last evaluation, a column for each run; empty
/// when no run has any.
std::string held_out_html(std::span<const RunSummary> runs);

}  // namespace moe
