// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/readable.h"
#include "report/study.h"
#include "report/study_gap.h"

namespace moe {
namespace {

using nlohmann::ordered_json;

/// Over the seeds of an arm; not a number where a run has none.
struct Spread {
  double mean = 0, deviation = 0;
};

Spread over_seeds(const StudyArm& arm, const std::function<double(const StudyRun&)>& value) {
  Spread s;
  const auto n = double(arm.runs.size());
  for (const StudyRun& run : arm.runs) s.mean += value(run) / n;
  for (const StudyRun& run : arm.runs) s.deviation += std::pow(value(run) - s.mean, 2);
  s.deviation = n > 1 ? std::sqrt(s.deviation / (n - 1)) : 0;
  return s;
}

std::string loss_text(const StudyArm& arm, double (StudyRun::*value)() const) {
  const Spread s = over_seeds(arm, [&](const StudyRun& run) { return (run.*value)(); });
  return arm.runs.size() > 1 ? fmt::format("{:.3f} ± {:.3f}", s.mean, s.deviation)
                             : fmt::format("{:.3f}", s.mean);
}

/// Of the routers of one kind; empty where a model has none.
std::string balance_text(const StudyArm& arm, std::optional<RouterBalance> StudyRun::*routers,
                         double RouterBalance::*value) {
  const double mean = over_seeds(arm, [&](const StudyRun& run) {
                        return run.*routers ? (*(run.*routers)).*value : std::nan("");
                      }).mean;
  return std::isnan(mean) ? "" : fmt::format("{:.2f}", mean);
}

std::string experts_text(const StudyArm& arm) {
  if (!arm.split || arm.split->experts == 0) return "dense";
  const SplitRecord& r = *arm.split;
  return fmt::format("{}: {}{}, top-{}", r.method,
                     r.shared_experts > 0 ? fmt::format("{} + ", r.shared_experts) : "", r.experts,
                     r.top_k);
}

std::string attention_text(const StudyArm& arm) {
  if (!arm.split || !arm.split->attention) return "dense";
  const SplitRecord::Attention& a = *arm.split->attention;
  return fmt::format("{}: {}, top-{}", a.kind, a.experts, a.top_k);
}

std::string activated_text(const StudyArm& arm, std::int64_t dense_parameters) {
  const std::int64_t n = arm.split ? arm.split->parameters_activated : dense_parameters;
  return n > 0 ? readable_count(double(n)) : "";
}

ordered_json balance_json(const std::optional<RouterBalance>& b) {
  if (!b) return nullptr;
  return {{"load_max_over_mean", b->load_max}, {"load_cv", b->load_cv}, {"entropy", b->entropy}};
}

/// Tokens by per cent of the gap.
ordered_json closing_json(const StudyRun& run, const StudyGap& gap) {
  ordered_json j;
  for (const double share : kGapShares) {
    const std::optional<double> tokens = tokens_to_close(run, gap, share);
    j[fmt::format("{:.0f}", 100 * share)] = tokens ? ordered_json(*tokens) : nullptr;
  }
  return j;
}

}  // namespace

std::string study_markdown(const Study& study, std::int64_t dense_parameters) {
  std::size_t most = 0, least = SIZE_MAX;
  double tokens = 0;
  for (const StudyArm& arm : study.arms) {
    most = std::max(most, arm.runs.size());
    least = std::min(least, arm.runs.size());
    for (const StudyRun& run : arm.runs) tokens = std::max(tokens, run.tokens());
  }
  std::string text = fmt::format(
      "| arm | feed-forward | attention | activated | loss after the split | after {} tokens | "
      "load max | CV | entropy | attention: load max | CV | entropy |\n"
      "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
      readable_count(tokens));
  for (const StudyArm& arm : study.arms) {
    text += fmt::format("| {} | {} | {} | {} | {} | {} |", arm.name, experts_text(arm),
                        attention_text(arm), activated_text(arm, dense_parameters),
                        loss_text(arm, &StudyRun::before), loss_text(arm, &StudyRun::after));
    for (const auto routers : {&StudyRun::experts, &StudyRun::attention})
      for (const auto value :
           {&RouterBalance::load_max, &RouterBalance::load_cv, &RouterBalance::entropy})
        text += fmt::format(" {} |", balance_text(arm, routers, value));
    text += "\n";
  }
  text += fmt::format(
      "\nHeld-out loss, nats a token, mean over domains and {} (± standard deviation over them). "
      "Load max: "
      "busiest expert over the mean; CV: standard deviation of the loads over their mean; entropy "
      "of the loads over the largest there can be: means over layers and the last 20 steps.\n",
      most == 1       ? "one seed"
      : least == most ? fmt::format("{} seeds", most)
                      : fmt::format("{} to {} seeds", least, most));
  return text;
}

std::string study_json(const Study& study, const StudyGap* gap) {
  ordered_json arms = ordered_json::array();
  for (const StudyArm& arm : study.arms) {
    ordered_json runs = ordered_json::array();
    for (const StudyRun& run : arm.runs) {
      runs.push_back({{"seed", run.seed},
                      {"losses", run.losses},
                      {"experts", balance_json(run.experts)},
                      {"attention", balance_json(run.attention)}});
      if (gap != nullptr && arm.split) runs.back()["tokens_to_close"] = closing_json(run, *gap);
    }
    const auto mean = [&](double (StudyRun::*value)() const) {
      return over_seeds(arm, [&](const StudyRun& run) { return (run.*value)(); }).mean;
    };
    arms.push_back({{"name", arm.name},
                    {"groups", arm.groups},
                    {"options", arm.options},
                    {"loss_before", mean(&StudyRun::before)},
                    {"loss_after", mean(&StudyRun::after)},
                    {"runs", runs}});
  }
  const ordered_json j = {{"arms", arms}, {"notes", study.notes}};
  return j.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

LineChart study_chart(const Study& study, const std::string& group) {
  LineChart chart;
  chart.x_label = "tokens";
  chart.y_label = "held-out loss";
  chart.width = 760;
  chart.height = 360;
  for (const StudyArm& arm : study.arms) {
    if (std::find(arm.groups.begin(), arm.groups.end(), group) == arm.groups.end()) continue;
    ChartSeries series{arm.name, {}, !arm.split, {}};
    // Sequences end where they end, so tokens differ a little between the seeds.
    std::size_t points = SIZE_MAX;
    for (const StudyRun& run : arm.runs) points = std::min(points, run.losses.size());
    for (std::size_t i = 0; i < points; ++i)
      series.points.emplace_back(
          std::round(over_seeds(arm, [i](const auto& run) { return run.losses[i].first; }).mean),
          over_seeds(arm, [i](const auto& run) { return run.losses[i].second; }).mean);
    chart.series.push_back(std::move(series));
  }
  return chart;
}

}  // namespace moe
