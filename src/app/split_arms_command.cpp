// SPDX-License-Identifier: Apache-2.0
#include "app/split_arms_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "core/durable_files.h"
#include "core/error.h"
#include "report/arms_report.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

struct ArmsArguments {
  ArmsOptions arms;
  std::vector<std::string> calibration, validation, tests, names = {"all"};
  std::string output;
  std::int64_t threads = 0;
  bool json = false;
};

/// "NAME=SHARD,SHARD", or shards alone, which then are called "test".
ArmTest test_named(const std::string& text) {
  const std::size_t equals = text.find('=');
  ArmTest test{equals == std::string::npos ? "test" : text.substr(0, equals), {}};
  const std::string files = equals == std::string::npos ? text : text.substr(equals + 1);
  for (const std::string& file : CLI::detail::split(files, ',')) test.shards.emplace_back(file);
  return test;
}

int run_arms(ArmsArguments& a, Communicator& world) {
  ArmsOptions& o = a.arms;
  o.split.calibration.shards.assign(a.calibration.begin(), a.calibration.end());
  o.split.validation.assign(a.validation.begin(), a.validation.end());
  for (const std::string& test : a.tests) o.tests.push_back(test_named(test));
  o.arms = a.names == std::vector<std::string>{"all"} ? all_arms() : arms_named(a.names);
  const ArmsReport report = compare_arms(o, world);
  if (world.rank() != 0) return kExitOk;
  const std::string json = arms_json(o, report);
  if (!a.output.empty()) write_synced(a.output, json);
  fmt::print("{}", a.json ? json : arms_text(report));
  return kExitOk;
}

}  // namespace

Action define_split_arms(CLI::App& app, const OnRanks& on_ranks) {
  auto a = std::make_shared<ArmsArguments>();
  SplitOptions& o = a->arms.split;
  app.add_option("--input", o.input, "dense model: a Hugging Face folder of a LLaMA")->required();
  app.add_option("--experts", o.experts, "routed experts per layer")->capture_default_str();
  app.add_option("--shared", o.shared, "shared experts per layer, of the same size")
      ->capture_default_str();
  app.add_option("--top-k", o.top_k, "routed experts chosen per token")->capture_default_str();
  app.add_option("--calibration", a->calibration, "token shards to fit to")->required();
  app.add_option("--calibration-tokens", o.calibration.tokens, "of them, at most")
      ->capture_default_str();
  app.add_option("--calibration-length", o.calibration.length,
                 "longer documents are cut, those of tests too")
      ->capture_default_str();
  app.add_option("--validation", a->validation,
                 "token shards that decide between fits (default: an eighth of the calibration "
                 "documents)");
  app.add_option("--test", a->tests,
                 "token shards to measure losses on, as SHARD or NAME=SHARD,SHARD; several")
      ->required();
  app.add_option("--arms", a->names, "all, or names of arms: docs/splitting.md")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--seeds", a->arms.seeds, "every arm is made with each of them")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--output", a->output, "also write the report as JSON to this file");
  app.add_option("--threads", a->threads,
                 "of each rank (default: the cores over the host's ranks)");
  app.add_flag("--json", a->json, "print the report as JSON");
  return [a, on_ranks] {
    MOE_REQUIRE(a->output.empty() || fs::is_directory(fs::absolute(a->output).parent_path()),
                a->output, ": there is no folder to write it in");
    return on_ranks(a->threads, [&](Communicator& world) { return run_arms(*a, world); });
  };
}

}  // namespace moe
