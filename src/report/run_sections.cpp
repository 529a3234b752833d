// SPDX-License-Identifier: Apache-2.0
#include "report/run_sections.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "report/html_page.h"
#include "report/points.h"
#include "report/svg_chart.h"

namespace moe {
namespace {

constexpr std::size_t kColumns = 160;    // of stacked areas
constexpr std::size_t kMapColumns = 60;  // of a map over time

RunChart over_steps(const std::string& y_label) {
  RunChart chart;
  chart.x_label = "steps";
  chart.y_label = y_label;
  return chart;
}

bool all_zero(const Points& points) {
  return std::all_of(points.begin(), points.end(), [](const auto& p) { return p.second == 0; });
}

/// A curve for each series that is not always 0.
std::string each_figure(const RunRecord& run, const std::string& heading, const std::string& prefix,
                        const std::string& y_label, const std::string& explanation,
                        Drawn drawn = Drawn::smoothed) {
  RunChart chart = over_steps(y_label);
  chart.from_zero = drawn == Drawn::exact;
  add_each(chart, run, prefix, run.steps, drawn);
  std::erase_if(chart.curves, [](const RunCurve& c) { return all_zero(c.points); });
  if (chart.curves.size() == 1) chart.y_label = chart.curves[0].name + ", " + chart.y_label;
  return figure_of(heading, chart, explanation);
}

/// Seconds of a step by phase, one above the other; what no phase accounts for on top.
std::string time_figure(const RunRecord& run) {
  const std::string prefix = "phase_seconds/";
  const RunRecord::Series* whole = run.find("step_seconds");
  std::vector<std::string> phases;
  const std::vector<std::string> known = run.names_below(prefix);
  for (const char* first : {"load", "forward", "backward", "reduce", "optimizer"})
    if (std::find(known.begin(), known.end(), first) != known.end()) phases.emplace_back(first);
  for (const std::string& name : known)
    if (std::find(phases.begin(), phases.end(), name) == phases.end()) phases.push_back(name);
  if (phases.empty() || whole == nullptr) return {};

  const std::size_t rows = run.steps.size(), columns = std::min(kColumns, rows);
  const auto means = [&](const RunRecord::Series& s) {
    return column_means(s.rows, s.values, rows, columns);
  };
  std::vector<double> rest = means(*whole);
  RunChart chart = over_steps("seconds a step");
  chart.stacked = true;
  const auto add = [&](const std::string& name, const std::vector<double>& values) {
    RunCurve& curve = chart.curves.emplace_back();
    curve.name = name;
    curve.colour = chart.curves.size() - 1;
    for (std::size_t c = 0; c < columns; ++c)
      curve.points.emplace_back(run.steps[(2 * c + 1) * rows / (2 * columns)],
                                std::isnan(values[c]) ? 0 : values[c]);
  };
  for (const std::string& phase : phases) {
    const std::vector<double> seconds = means(run.series.at(prefix + phase));
    for (std::size_t c = 0; c < columns; ++c)
      if (!std::isnan(seconds[c])) rest[c] = std::max(0.0, rest[c] - seconds[c]);
    add(phase, seconds);
  }
  add("rest", rest);
  return figure_of("Where the time of a step goes", chart,
                   "As rank 0's host sees it; load is the wait for data.");
}

/// Left out where it is next to nothing, as on a single rank.
std::string waiting_figure(const RunRecord& run) {
  constexpr double kWorthShowing = 0.001;  // of the step
  const RunRecord::Series* waited = run.find("exposed_comm_seconds");
  const RunRecord::Series* step = run.find("step_seconds");
  if (waited == nullptr || step == nullptr ||
      quantile(waited->values, 0.5) < kWorthShowing * quantile(step->values, 0.5))
    return {};
  return each_figure(run, "Waiting for other ranks", "exposed_comm_by_phase/", "seconds a step",
                     "Time in which rank 0 did nothing but wait for collectives, smoothed.");
}

std::string memory_figure(const RunRecord& run) {
  RunChart chart = over_steps("bytes");
  chart.from_zero = true;
  for (const std::string& kind : run.names_below("memory_bytes/")) {
    const RunRecord::Series& s = run.series.at("memory_bytes/" + kind);
    if (quantile(s.values, 1) > 0)
      chart.curves.push_back({kind, points_of(s, run.steps), chart.curves.size(), false, false});
  }
  return figure_of("Memory", chart,
                   "Most that tensors of rank 0 have held until then, by kind; total: together at "
                   "one moment.");
}

/// Experts of the feed-forward, or of the attention.
struct ExpertKind {
  const char *key, *name;
};
constexpr ExpertKind kExpertKinds[] = {{"expert_load/", "experts"},
                                       {"attention/expert_load/", "attention's experts"}};

/// [expert] of a layer: load at each record.
std::vector<const RunRecord::Series*> experts_of(const RunRecord& run, const ExpertKind& kind,
                                                 std::size_t layer) {
  std::vector<const RunRecord::Series*> experts;
  const std::string prefix = fmt::format("{}{}/", kind.key, layer);
  for (std::size_t e = 0; e < run.count_below(prefix); ++e)
    experts.push_back(run.find(fmt::format("{}{}", prefix, e)));
  return experts;
}

std::size_t layers_with_load(const RunRecord& run, const ExpertKind& kind) {
  std::size_t layers = 0;
  while (run.find(fmt::format("{}{}/0", kind.key, layers)) != nullptr) ++layers;
  return layers;
}

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

std::string last_load_figure(const RunRecord& run, const ExpertKind& kind) {
  HeatMap map{"layer", "expert", {}, {}};
  std::size_t row = 0;
  for (std::size_t l = 0; l < layers_with_load(run, kind); ++l) {
    std::vector<double> load;
    for (const RunRecord::Series* s : experts_of(run, kind, l)) load.push_back(s->values.back());
    row = experts_of(run, kind, l)[0]->rows.back();
    const double mean = mean_of(load);
    map.rows.push_back(fmt::format("{}", l));
    auto& cells = map.cells.emplace_back();
    for (std::size_t e = 0; e < load.size(); ++e) {
      const double ratio = mean > 0 ? load[e] / mean : 1;
      cells.push_back({ratio, fmt::format("layer {}, expert {}: {:.0f} pairs, {:.3f} of the mean",
                                          l, e, load[e], ratio)});
    }
  }
  if (map.cells.empty()) return {};
  return html_figure(fmt::format("Load of the {} at step {:.0f}", kind.name, run.steps[row]),
                     "<div class=\"scroll wide\">\n" + heat_map(map) + "</div>\n",
                     "Tokens that chose each expert, over the mean of its layer. Layers are those "
                     "with experts, counted from 0.");
}

std::string load_over_time(const RunRecord& run, const ExpertKind& kind) {
  std::string maps;
  for (std::size_t l = 0; l < layers_with_load(run, kind); ++l) {
    const auto experts = experts_of(run, kind, l);
    const std::size_t records = experts[0]->rows.size();
    const std::size_t columns = std::min(kMapColumns, records);
    RunMap map{fmt::format("layer {}", l), {}};
    std::vector<double> totals(columns, 0);
    for (const RunRecord::Series* s : experts) {
      std::vector<double>& row = map.rows.emplace_back(columns, 0);
      for (std::size_t i = 0; i < std::min(records, s->values.size()); ++i) {
        row[i * columns / records] += s->values[i];
        totals[i * columns / records] += s->values[i];
      }
    }
    for (std::vector<double>& row : map.rows)
      for (std::size_t c = 0; c < columns; ++c)
        row[c] = totals[c] > 0 ? row[c] * double(experts.size()) / totals[c] : NAN;
    maps += run_map(map);
  }
  if (maps.empty()) return {};
  return html_figure(fmt::format("Load of the {} over time", kind.name),
                     "<div class=\"maps\">\n" + maps + "</div>\n",
                     "From the first step at the left to the last at the right, a row for each "
                     "expert, in the colours of the map above.");
}

}  // namespace

std::string figure_of(const std::string& heading, const RunChart& chart,
                      const std::string& explanation) {
  const std::string html = run_chart(chart);
  return html.empty() ? html : html_figure(heading, html, explanation);
}

Points points_of(const RunRecord::Series& series, std::span<const double> x) {
  Points points;
  for (std::size_t i = 0; i < series.rows.size(); ++i)
    points.emplace_back(x[series.rows[i]], series.values[i]);
  return points;
}

void add_smoothed(RunChart& chart, const std::string& name, std::size_t colour,
                  const Points& points) {
  constexpr std::size_t kFew = 100;
  if (points.size() < kFew) {
    chart.curves.push_back({name, points, colour, false, false});
    return;
  }
  std::vector<double> values;
  for (const auto& [x, y] : points) values.push_back(y);
  const std::vector<double> smooth = smoothed(values);
  Points line = points;
  for (std::size_t i = 0; i < line.size(); ++i) line[i].second = smooth[i];
  chart.curves.push_back({name, points, colour, true, false});
  chart.curves.push_back({name, std::move(line), colour, false, false});
}

void add_each(RunChart& chart, const RunRecord& run, const std::string& prefix,
              std::span<const double> x, Drawn drawn) {
  const std::vector<std::string> names = run.names_below(prefix);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Points points = points_of(run.series.at(prefix + names[i]), x);
    if (drawn != Drawn::smoothed) {
      chart.curves.push_back({names[i], points, i, false, drawn == Drawn::dots});
      continue;
    }
    RunChart both;
    add_smoothed(both, names[i], i, points);
    chart.curves.push_back(std::move(both.curves.back()));  // without what was smoothed
  }
}

std::string run_section(const RunRecord& run, bool headed) {
  std::string charts = each_figure(run, "Loss by domain", "domain_loss/", "nats a token",
                                   "Of what was trained on, smoothed.");
  if (headed) {
    RunChart held_out = over_steps("nats a token");
    held_out.exponential_too = true;
    add_each(held_out, run, "held_out_loss/", run.steps, Drawn::dots);
    charts += figure_of("Held-out loss by domain", held_out, "Right: perplexity.");
  }
  charts += each_figure(run, "Weights of the domains", "domain_weights/", "share",
                        "Shares in which sequences are drawn.", Drawn::exact) +
            each_figure(run, "Epochs of the domains", "domain_epochs/", "times seen",
                        "How often each domain's text has been gone through.", Drawn::exact) +
            each_figure(run, "Router losses", "router_losses/", "nats a token",
                        "Coefficients included, smoothed.") +
            each_figure(run, "Router losses of the attention", "attention/router_losses/",
                        "nats a token", "Coefficients included, smoothed.") +
            time_figure(run) + waiting_figure(run) + memory_figure(run);
  std::string maps;
  for (const ExpertKind& kind : kExpertKinds)
    maps += last_load_figure(run, kind) + load_over_time(run, kind);
  if (charts.empty() && maps.empty()) return {};
  return fmt::format("<section>\n{}<div class=\"charts\">\n{}</div>\n{}</section>\n",
                     headed ? "<h2>" + html_escape(run.name) + "</h2>\n" : "", charts, maps);
}

}  // namespace moe
