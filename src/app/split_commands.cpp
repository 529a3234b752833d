// SPDX-License-Identifier: Apache-2.0
#include "app/split_commands.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core/durable_files.h"
#include "core/error.h"
#include "core/log.h"
#include "eval/model_difference.h"
#include "eval/top_k_loss.h"
#include "report/split_comparison.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

struct VerifyArguments {
  std::string a, b, dtype = "f32";
  std::vector<std::string> data;
  std::int64_t sequences = 8, length = 256;
  double tolerance = 1e-5;
  bool json = false;
};

int run_verify(const VerifyArguments& v) {
  const ModelSource a = open_model(v.a), b = open_model(v.b);
  const std::int64_t length = std::min({v.length, a.config.max_positions, b.config.max_positions});
  const ModelDifference d =
      compare_models(a, b, held_out_documents({v.data.begin(), v.data.end()}, a.config, length),
                     v.sequences, float_dtype_named(v.dtype), v.tolerance);
  const bool same = !d.first_layer;
  const std::string where = same                 ? ""
                            : *d.first_layer < 0 ? "the embeddings"
                            : *d.first_layer >= std::min(a.config.layers, b.config.layers)
                                ? "the final norm or the head"
                                : str("layer ", *d.first_layer);
  if (v.json) {
    const nlohmann::ordered_json j = {{"equal", same},
                                      {"tokens", d.tokens},
                                      {"largest_difference", d.largest},
                                      {"largest_logit", d.largest_logit},
                                      {"tolerance", v.tolerance},
                                      {"first_difference", where},
                                      {"first_parameter", d.first_parameter}};
    fmt::print("{}\n", j.dump());
  } else {
    fmt::print(
        "{}: logits differ by {:.3g} at most, the largest being {:.4g}, over {} tokens in {}\n",
        same ? "equal" : "different", d.largest, d.largest_logit, d.tokens, v.dtype);
    if (!same) fmt::print("they begin to differ in {}\n", where);
    if (!d.first_parameter.empty())
      fmt::print("first parameter that differs or that one of them lacks: {}\n", d.first_parameter);
  }
  return same ? kExitOk : kExitFailed;
}

Action define_verify(CLI::App& app) {
  auto v = std::make_shared<VerifyArguments>();
  app.add_option("A", v->a, "model folder or training checkpoint")->required();
  app.add_option("B", v->b, "another")->required();
  app.add_option("--data", v->data, "token shards")->required();
  app.add_option("--sequences", v->sequences, "documents compared")->capture_default_str();
  app.add_option("--length", v->length, "longer documents are cut")->capture_default_str();
  app.add_option("--dtype", v->dtype, "f32, f64 or bf16")->capture_default_str();
  app.add_option("--tolerance", v->tolerance, "of a logit, as a share of the largest one")
      ->capture_default_str();
  app.add_flag("--json", v->json, "print one JSON object");
  return [v] { return run_verify(*v); };
}

struct CompareArguments {
  ComparisonOptions comparison;
  std::string html;
  bool json = false;
};

int run_compare(const CompareArguments& a) {
  MOE_REQUIRE(a.html.empty() || fs::is_directory(fs::absolute(a.html).parent_path()), a.html,
              ": there is no folder to write it in");
  const SplitComparison comparison = compare_splits(a.comparison);
  for (const std::string& warning : comparison.warnings) log_warning("{}", warning);
  if (!a.html.empty()) write_synced(a.html, comparison_html(comparison));
  fmt::print("{}", a.json ? comparison_json(comparison) : comparison_text(comparison));
  return kExitOk;
}

Action define_compare(CLI::App& app) {
  auto a = std::make_shared<CompareArguments>();
  ComparisonOptions& o = a->comparison;
  app.add_option("MODEL", o.models,
                 "folders that moe-split wrote, dense ones; with --data any model or checkpoint")
      ->required();
  app.add_option("--data", o.shards,
                 "token shards to measure losses on now (default: the losses that were measured "
                 "when the models were split)");
  app.add_option("--top-k", o.top_k,
                 "numbers of chosen experts to compare at, as 1,2,4 (default: all that were "
                 "measured; with --data each model's own)")
      ->delimiter(',');
  app.add_option("--length", o.length, "with --data: longer documents are cut")
      ->capture_default_str();
  app.add_flag("--json", a->json, "print one JSON object");
  app.add_option("--html", a->html, "also write the comparison as a page with curves");
  return [a] { return run_compare(*a); };
}

}  // namespace

Subcommands define_split_commands(CLI::App& app, const OnRanks& on_ranks) {
  Subcommands commands(app);
  commands.add("verify",
               "Whether two models give the same logits on some text (exit code 0 or 1), and where "
               "they begin to differ",
               define_verify);
  commands.add("compare", "Several splits and dense models side by side, the lowest loss first",
               define_compare);
  commands.add("arms",
               "Every way to split a dense model with as many active neurons: the loss that each "
               "adds, and where it comes from",
               [on_ranks](CLI::App& arms) { return define_split_arms(arms, on_ranks); });
  return commands;
}

}  // namespace moe
