// SPDX-License-Identifier: Apache-2.0
#include "report/arms_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace moe {
namespace {

using nlohmann::ordered_json;

/// 1 - added / added of the null arm of a test: negative where routing is worse than pruning. NaN
/// without that arm.
double score_of(const ArmsReport& report, const ArmResult& arm, std::size_t test) {
  for (const ArmResult& other : report.arms)
    if (other.name == kNullArm)
      return 1 - arm.losses[test].added.value / other.losses[test].added.value;
  return NAN;
}

ordered_json loss_json(const ArmsReport& report, const ArmResult& arm, std::size_t test) {
  const ArmLoss& l = arm.losses[test];
  ordered_json j = {{"name", report.tests[test].name},
                    {"loss_by_seed", l.by_seed},
                    {"added", l.added.value},
                    {"added_half_width", l.added.half_width},
                    {"by_oracle", l.by_oracle},
                    {"unrefitted", l.unrefitted},
                    {"kl", l.kl}};
  if (l.behind) {
    j["behind"] = l.behind->value;
    j["behind_half_width"] = l.behind->half_width;
  }
  if (const double score = score_of(report, arm, test); std::isfinite(score)) j["score"] = score;
  return j;
}

std::string with_interval(const WithInterval& w) {
  return fmt::format("{:+.3f} ± {:.3f}", w.value, w.half_width);
}

}  // namespace

std::string arms_json(const ArmsOptions& o, const ArmsReport& report) {
  ordered_json j = {{"input", o.split.input.string()},
                    {"experts", o.split.experts},
                    {"shared", o.split.shared},
                    {"top_k", o.split.top_k},
                    {"neurons", report.neurons},
                    {"active_neurons", report.active_neurons},
                    {"dense_parameters", report.dense_parameters},
                    {"seeds", o.seeds},
                    {"calibration_tokens", report.calibration_tokens},
                    {"validation_tokens", report.validation_tokens},
                    {"null", kNullArm},
                    {"own", kOwnArm}};
  for (const ArmsReport::Test& test : report.tests)
    j["tests"].push_back({{"name", test.name},
                          {"documents", test.documents},
                          {"tokens", test.tokens},
                          {"dense_loss", test.dense_loss},
                          {"by_neurons", test.by_neurons}});
  for (const ArmResult& arm : report.arms) {
    ordered_json one = {{"name", arm.name},           {"what", arm.what},
                        {"activated", arm.activated}, {"load_max_over_mean", arm.load_max},
                        {"seconds", arm.seconds},     {"notes", arm.notes}};
    for (std::size_t t = 0; t < report.tests.size(); ++t)
      one["tests"].push_back(loss_json(report, arm, t));
    j["arms"].push_back(one);
  }
  return j.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string arms_text(const ArmsReport& report) {
  std::string text = fmt::format(
      "{} of {} neurons active; {} calibration tokens, {} decide between fits\n",
      report.active_neurons, report.neurons, report.calibration_tokens, report.validation_tokens);
  for (std::size_t t = 0; t < report.tests.size(); ++t) {
    const ArmsReport::Test& test = report.tests[t];
    text += fmt::format(
        "\n{}: {} tokens in {} documents, dense loss {:.4f}; with each token's best neurons "
        "{:+.3f}\n\n",
        test.name, test.tokens, test.documents, test.dense_loss, test.by_neurons);
    text += fmt::format(
        "| {:<18} | {:>16} | {:>16} | {:>6} | {:>7} | {:>7} | {:>7} | {:>5} | {:>9} |\n", "arm",
        "added", "behind " + std::string(kOwnArm), "score", "oracle", "dense d", "KL", "load",
        "activated");
    text += "|---|---:|---:|---:|---:|---:|---:|---:|---:|\n";
    std::vector<const ArmResult*> arms;
    for (const ArmResult& arm : report.arms) arms.push_back(&arm);
    std::stable_sort(arms.begin(), arms.end(), [t](const ArmResult* a, const ArmResult* b) {
      return a->losses[t].added.value > b->losses[t].added.value;
    });
    for (const ArmResult* arm : arms) {
      const ArmLoss& l = arm->losses[t];
      const double score = score_of(report, *arm, t);
      text += fmt::format(
          "| {:<18} | {:>16} | {:>18} | {:>6} | {:>+7.3f} | {:>+7.3f} | {:>7.3f} | {:>5.2f} | "
          "{:>9} |\n",
          arm->name, with_interval(l.added), l.behind ? with_interval(*l.behind) : "",
          std::isfinite(score) ? fmt::format("{:.2f}", score) : "", l.by_oracle, l.unrefitted, l.kl,
          arm->load_max, arm->activated);
    }
  }
  text += fmt::format(
      "\nnats a token over the dense model's, right after the split, means over seeds; ± half a 95 "
      "% "
      "interval over documents, paired.\nscore: 1 - added / added of {}; oracle: added with the "
      "experts of the longest outputs, dense down projections (the partition alone); dense d: "
      "added "
      "with the arm's gate, dense down projections;\nKL: of the dense model's next token from the "
      "split one's; load: busiest expert over the mean; activated: parameters.\n",
      kNullArm);
  for (const ArmResult& arm : report.arms)
    for (const std::string& note : arm.notes) text += fmt::format("{}: {}\n", arm.name, note);
  return text;
}

}  // namespace moe
