// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/app.h"
#include "data/intake.h"

namespace moe {

/// The options about sets that the commands reading raw lines share.
struct SetArguments {
  std::vector<std::string> sets;
  std::string field, unknown = "stop";

  void define(CLI::App& app);
  bool given() const;
  /// Throws InputError.
  SetNames names() const;
};

/// The options about what is left out of text.
struct FilterArguments {
  std::string filter, removed;
  bool deduplicate = false;

  void define(CLI::App& app);
  /// Reads the rules; empty without --filter. Throws InputError.
  std::optional<QualityFilter> rules() const;
};

/// Prints what was left out, a line for each reason.
void print_left_out(const IntakeCounts& counts);
/// The same as a JSON object in text.
std::string left_out_json(const IntakeCounts& counts);

// Subcommands of moe-data: each declares its options and returns what to run.
Action define_data_build(CLI::App& app);
Action define_data_split_raw(CLI::App& app);
Action define_data_retokenize(CLI::App& app);
Action define_data_merge(CLI::App& app);
Action define_data_cut(CLI::App& app);
Action define_data_shuffle(CLI::App& app);
Action define_data_select(CLI::App& app);
Action define_data_stats(CLI::App& app);

}  // namespace moe
