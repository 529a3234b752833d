// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "report/html_page.h"
#include "report/split_comparison.h"
#include "report/split_terms.h"
#include "report/svg_chart.h"

namespace moe {
namespace {

struct Column {
  std::string heading;
  bool text = false;  // aligned to the left
  std::vector<std::string> cells;
};

bool has_dense_loss_alone(const SplitComparison& c) {
  return c.top_k.empty() && std::any_of(c.models.begin(), c.models.end(),
                                        [](const auto& m) { return !m.loss.empty(); });
}

/// The table, column by column; those that say nothing are left out.
std::vector<Column> table(const SplitComparison& c) {
  std::vector<Column> columns;
  const auto add = [&](const std::string& heading, bool text, auto cell) {
    Column column{heading, text, {}};
    for (const ComparedModel& m : c.models) column.cells.push_back(cell(m));
    if (std::any_of(column.cells.begin(), column.cells.end(),
                    [](const std::string& s) { return !s.empty(); }))
      columns.push_back(std::move(column));
  };
  const auto add_quality = [&](const char* heading, double MeanQuality::*value, int decimals) {
    add(heading, false, [&](const ComparedModel& m) {
      return m.quality ? fmt::format("{:.{}f}", (*m.quality).*value, decimals) : "";
    });
  };
  add("model", true, [](const auto& m) { return m.folder; });
  add("method", true, [](const auto& m) { return m.method; });
  add("experts", false, [](const auto& m) {
    if (m.experts == 0) return std::string();
    return m.shared_experts > 0 ? fmt::format("{} + {}", m.experts, m.shared_experts)
                                : fmt::format("{}", m.experts);
  });
  add("top-k", false,
      [](const auto& m) { return m.experts > 0 ? fmt::format("{}", m.top_k) : ""; });
  add("attention", true, [](const auto& m) { return m.attention; });
  add("gate", true, [](const auto& m) { return m.gate; });
  add("scale", true, [](const auto& m) { return m.scale; });
  add_quality("error", &MeanQuality::error, 4);
  add_quality("recall", &MeanQuality::recall, 3);
  add_quality("load max", &MeanQuality::load_max, 2);
  const auto add_loss = [&](const std::string& heading, std::int64_t k) {
    add(heading, false, [k](const ComparedModel& m) {
      const auto found = m.loss.find(m.experts == 0 ? 0 : k);
      return found == m.loss.end() ? "" : fmt::format("{:.4f}", found->second);
    });
  };
  for (const std::int64_t k : c.top_k) add_loss(fmt::format("loss k={}", k), k);
  if (has_dense_loss_alone(c)) add_loss("loss", 0);
  return columns;
}

/// What the columns are, and how losses came about.
std::vector<std::string> footnotes(const SplitComparison& c) {
  std::vector<std::string> notes;
  if (std::any_of(c.models.begin(), c.models.end(),
                  [](const auto& m) { return m.shared_experts > 0; }))
    notes.push_back("experts: routed + shared");
  if (std::any_of(c.models.begin(), c.models.end(),
                  [](const auto& m) { return m.quality.has_value(); })) {
    notes.push_back(
        "error, recall and load max: means over the layers, on each split's own calibration text");
    notes.push_back(fmt::format("error: {}", term::kError));
    notes.push_back(fmt::format("recall: {}; load max: {}", term::kRecall, term::kLoadMax));
  }
  notes.insert(notes.end(), c.notes.begin(), c.notes.end());
  if (c.sorted_by > 0) notes.push_back(fmt::format("sorted by the loss for k={}", c.sorted_by));
  return notes;
}

}  // namespace

std::string comparison_text(const SplitComparison& c) {
  const std::vector<Column> columns = table(c);
  const auto line = [&](auto cell) {
    std::string text;
    for (const Column& column : columns) {
      std::size_t width = column.heading.size();
      for (const std::string& s : column.cells) width = std::max(width, s.size());
      text += column.text ? fmt::format("{:<{}}", cell(column), width)
                          : fmt::format("{:>{}}", cell(column), width);
      text += "  ";
    }
    text.erase(text.find_last_not_of(' ') + 1);
    return text + "\n";
  };
  std::string text = line([](const Column& column) { return column.heading; });
  for (std::size_t i = 0; i < c.models.size(); ++i)
    text += line([i](const Column& column) { return column.cells[i]; });
  text += "\n";
  for (const std::string& note : footnotes(c)) text += note + ".\n";
  return text;
}

std::string comparison_json(const SplitComparison& c) {
  using nlohmann::ordered_json;
  ordered_json models = ordered_json::array();
  for (const ComparedModel& m : c.models) {
    ordered_json one = {{"folder", m.folder}, {"method", m.method}};
    if (m.experts > 0)
      one.update({{"experts", m.experts},
                  {"shared_experts", m.shared_experts},
                  {"top_k", m.top_k},
                  {"gate", m.gate},
                  {"scale", m.scale}});
    if (!m.attention.empty()) one["attention"] = m.attention;
    if (m.quality)
      one.update({{"reconstruction_error", m.quality->error},
                  {"activation_recall", m.quality->recall},
                  {"load_max_over_mean", m.quality->load_max}});
    for (const auto& [k, loss] : m.loss) {
      if (k == 0)
        one["loss"] = loss;
      else
        one["loss_by_top_k"][std::to_string(k)] = loss;
    }
    models.push_back(one);
  }
  const ordered_json j = {{"models", models},
                          {"top_k", c.top_k},
                          {"sorted_by", c.sorted_by},
                          {"tokens", c.tokens},
                          {"measured_now", c.measured_now},
                          {"warnings", c.warnings},
                          {"notes", c.notes}};
  return j.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string comparison_html(const SplitComparison& c) {
  std::string body = "<h1>Splits compared</h1>\n";
  for (const std::string& warning : c.warnings)
    body += fmt::format("<p class=\"warning\">{}</p>\n", html_escape(warning));

  const std::vector<Column> columns = table(c);
  const auto cell = [](const char* tag, const Column& column, const std::string& text) {
    return fmt::format("<{0}{1}>{2}</{0}>", tag, column.text ? " class=\"text\"" : "",
                       html_escape(text));
  };
  std::string rows = "<div class=\"scroll\"><table>\n<tr>";
  for (const Column& column : columns) rows += cell("th", column, column.heading);
  rows += "</tr>\n";
  for (std::size_t i = 0; i < c.models.size(); ++i) {
    rows += "<tr>";
    for (const Column& column : columns) rows += cell("td", column, column.cells[i]);
    rows += "</tr>\n";
  }
  std::string notes;
  for (const std::string& note : footnotes(c)) notes += note + ". ";
  body += html_figure("Models", rows + "</table></div>\n", notes);

  LineChart chart;
  chart.x_label = "experts chosen";
  chart.y_label = "loss";
  chart.width = 760;
  chart.height = 380;
  for (const ComparedModel& m : c.models) {
    if (m.experts == 0) {
      if (const auto loss = m.loss.find(0); loss != m.loss.end())
        chart.reference = {fmt::format("{} {:.4f}", m.folder, loss->second), loss->second};
      continue;
    }
    ChartSeries series{fmt::format("{} ({})", m.folder, m.method), {}, false, double(m.top_k)};
    for (const auto& [k, loss] : m.loss) series.points.emplace_back(k, loss);
    if (!series.points.empty()) chart.series.push_back(std::move(series));
  }
  if (const std::string curves = line_chart(chart); !curves.empty())
    body += html_figure(
        "Loss by experts chosen", curves,
        fmt::format("Nats a token over {} tokens, {}. Rings: the models as they "
                    "were written; dotted across: a dense model.",
                    c.tokens,
                    c.measured_now ? "measured for this comparison" : "right after each split"));
  return html_page("Splits compared", body);
}

}  // namespace moe
