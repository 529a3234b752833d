// SPDX-License-Identifier: Apache-2.0
#include "report/run_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "core/readable.h"
#include "report/html_page.h"
#include "report/points.h"

namespace moe {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kLastLines = 20;

double mean_of_last(const RunRecord::Series& s, std::size_t count) {
  return std::accumulate(s.values.end() - std::ptrdiff_t(count), s.values.end(), 0.0) /
         double(count);
}

std::optional<double> median(const RunRecord& run, const std::string& name) {
  const RunRecord::Series* s = run.find(name);
  if (s == nullptr) return std::nullopt;
  return quantile(s->values, 0.5);
}

void summarise_held_out(const RunRecord& run, RunSummary& s) {
  const std::string prefix = "held_out_loss/";
  const RunRecord::Series means = run.mean_below(prefix);
  if (means.rows.empty()) return;
  s.held_out_mean = means.values.back();
  s.held_out_best = *std::min_element(means.values.begin(), means.values.end());
  s.held_out_step = std::int64_t(run.steps[means.rows.back()]);
  for (const std::string& domain : run.names_below(prefix)) {
    const RunRecord::Series& series = run.series.at(prefix + domain);
    if (series.rows.back() == means.rows.back()) s.held_out[domain] = series.values.back();
  }
}

/// What people read of a run, in order; empty where the run has it not.
struct Figure {
  const char* label;
  std::function<std::string(const RunSummary&)> text;
};

std::string number(const std::optional<double>& value, auto&& text) {
  return value ? text(*value) : std::string();
}

const std::vector<Figure>& figures() {
  static const std::vector<Figure> all = {
      {"loss",
       [](const auto& s) {
         return number(s.loss, [](double x) { return fmt::format("{:.4f}", x); });
       }},
      {"held-out loss",
       [](const auto& s) {
         return number(s.held_out_mean, [](double x) { return fmt::format("{:.4f}", x); });
       }},
      {"held-out perplexity",
       [](const auto& s) {
         return number(s.held_out_mean,
                       [](double x) { return fmt::format("{:.3g}", std::exp(x)); });
       }},
      {"tokens", [](const auto& s) { return readable_count(double(s.tokens)); }},
      {"steps", [](const auto& s) { return fmt::format("{}", s.steps); }},
      {"tokens a second",
       [](const auto& s) { return number(s.tokens_per_second, readable_count); }},
      {"FLOP/s", [](const auto& s) { return number(s.flops_per_second, readable_count); }},
      {"busiest expert over the mean",
       [](const auto& s) {
         return number(s.load_max_over_mean, [](double x) { return fmt::format("{:.2f}", x); });
       }},
      {"time in steps", [](const auto& s) { return number(s.seconds, readable_seconds); }},
      {"steps skipped",
       [](const auto& s) { return s.skipped ? fmt::format("{}", s.skipped) : ""; }},
      {"rollbacks",
       [](const auto& s) { return s.rollbacks ? fmt::format("{}", s.rollbacks) : ""; }},
      {"state", [](const auto& s) { return s.state; }},
  };
  return all;
}

ordered_json to_json(const RunSummary& s) {
  const auto optional = [](const std::optional<double>& value) {
    return value ? ordered_json(*value) : ordered_json();
  };
  return {{"folder", s.folder},
          {"name", s.name},
          {"state", s.state},
          {"steps", s.steps},
          {"tokens", s.tokens},
          {"loss", optional(s.loss)},
          {"loss_lines", s.loss_lines},
          {"held_out", s.held_out},
          {"held_out_mean", optional(s.held_out_mean)},
          {"held_out_best", optional(s.held_out_best)},
          {"held_out_step", s.held_out_step},
          {"tokens_per_second", optional(s.tokens_per_second)},
          {"flops_per_second", optional(s.flops_per_second)},
          {"seconds", optional(s.seconds)},
          {"load_max_over_mean", optional(s.load_max_over_mean)},
          {"skipped", s.skipped},
          {"rollbacks", s.rollbacks},
          {"notes", s.notes}};
}

}  // namespace

RunSummary summary_of(const RunRecord& run) {
  RunSummary s;
  s.folder = run.folder.string();
  s.name = run.name;
  s.state = run.state;
  s.notes = run.notes;
  if (!run.steps.empty()) {
    s.steps = std::int64_t(run.steps.back());
    s.tokens = std::int64_t(run.tokens.back());
  }
  if (const RunRecord::Series* loss = run.find("loss")) {
    const std::size_t lines = std::min(kLastLines, loss->values.size());
    s.loss = mean_of_last(*loss, lines);
    s.loss_lines = std::int64_t(lines);
  }
  summarise_held_out(run, s);
  s.tokens_per_second = median(run, "tokens_per_second");
  s.flops_per_second = median(run, "flops_per_second");
  if (const RunRecord::Series* seconds = run.find("step_seconds"))
    s.seconds = std::accumulate(seconds->values.begin(), seconds->values.end(), 0.0);
  const RunRecord::Series load = run.mean_below("load_max_over_mean/");
  if (!load.values.empty())
    s.load_max_over_mean = mean_of_last(load, std::min(kLastLines, load.values.size()));
  if (const RunRecord::Series* skipped = run.find("skipped_steps"))
    s.skipped = std::int64_t(skipped->values.back());
  if (const RunRecord::Series* rollbacks = run.find("rollbacks"))
    s.rollbacks = std::int64_t(rollbacks->values.back());
  return s;
}

std::string to_text(const RunSummary& s) {
  std::string text = s.folder + "\n";
  for (const Figure& f : figures())
    if (const std::string value = f.text(s); !value.empty())
      text += fmt::format("  {:<29} {}\n", f.label, value);
  for (const auto& [domain, loss] : s.held_out)
    text += fmt::format("  {:<29} {:.4f}\n", "held-out " + domain, loss);
  for (const std::string& note : s.notes) text += "  note: " + note + "\n";
  return text;
}

std::string to_json(std::span<const RunSummary> runs, const std::string& output) {
  ordered_json list = ordered_json::array();
  for (const RunSummary& s : runs) list.push_back(to_json(s));
  const ordered_json whole = {{"runs", list},
                              {"output", output.empty() ? ordered_json() : ordered_json(output)}};
  return whole.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string summary_html(std::span<const RunSummary> runs) {
  std::string html;
  if (runs.size() == 1) {
    html = "<div class=\"tiles\">\n";
    for (const Figure& f : figures())
      if (const std::string value = f.text(runs[0]); !value.empty())
        html += fmt::format("<div><b>{}</b><span class=\"soft\">{}</span></div>\n",
                            html_escape(value), f.label);
    return html + "</div>\n";
  }
  html = "<div class=\"scroll\"><table class=\"numbers\">\n<tr><th></th>";
  for (std::size_t r = 0; r < runs.size(); ++r)
    html += fmt::format("<th><i class=\"c{}\"></i>{}</th>", r % 8 + 1, html_escape(runs[r].name));
  html += "</tr>\n";
  for (const Figure& f : figures()) {
    std::string cells;
    bool known = false;
    for (const RunSummary& s : runs) {
      const std::string text = f.text(s);
      known = known || !text.empty();
      cells += "<td>" + html_escape(text) + "</td>";
    }
    if (known) html += fmt::format("<tr><td class=\"text\">{}</td>{}</tr>\n", f.label, cells);
  }
  return html + "</table></div>\n";
}

std::string held_out_html(std::span<const RunSummary> runs) {
  std::set<std::string> domains;
  for (const RunSummary& s : runs)
    for (const auto& [domain, loss] : s.held_out) domains.insert(domain);
  if (domains.empty()) return {};
  std::string html = "<div class=\"scroll\"><table>\n<tr><th class=\"text\">domain</th>";
  for (const RunSummary& s : runs)
    html += fmt::format("<th>{}loss</th><th>perplexity</th>",
                        runs.size() > 1 ? html_escape(s.name) + ", " : "");
  html += "</tr>\n";
  for (const std::string& domain : domains) {
    html += "<tr><td class=\"text\">" + html_escape(domain) + "</td>";
    for (const RunSummary& s : runs) {
      const auto loss = s.held_out.find(domain);
      html += loss == s.held_out.end() ? "<td></td><td></td>"
                                       : fmt::format("<td>{:.4f}</td><td>{:.4g}</td>", loss->second,
                                                     std::exp(loss->second));
    }
    html += "</tr>\n";
  }
  return html + "</table></div>\n";
}

}  // namespace moe
