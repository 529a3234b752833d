// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/app.h"
#include "data/build_shards.h"

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

/// The options about shards and how they are made that build and chat share.
struct ShardArguments {
  std::string output, held_out, held_out_output;
  bool json = false;

  void define(CLI::App& app, BuildOptions& options);
  /// Puts what is here into the options. Throws InputError.
  void fill(BuildOptions& options) const;
};

/// Builds shards with a bar, and prints what was written.
int build_and_report(const BuildOptions& options, const ShardArguments& arguments);

/// Prints what was left out, a line for each reason.
void print_left_out(const IntakeCounts& counts);
/// The same as a JSON object in text.
std::string left_out_json(const IntakeCounts& counts);

// Subcommands of moe-data: each declares its options and returns what to run.
Action define_data_build(CLI::App& app);
Action define_data_chat(CLI::App& app);
Action define_data_split_raw(CLI::App& app);
Action define_data_retokenize(CLI::App& app);
Action define_data_merge(CLI::App& app);
Action define_data_cut(CLI::App& app);
Action define_data_shuffle(CLI::App& app);
Action define_data_select(CLI::App& app);
Action define_data_stats(CLI::App& app);

}  // namespace moe
