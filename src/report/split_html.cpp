// SPDX-License-Identifier: Apache-2.0
#include "report/split_html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/readable.h"
#include "report/html_page.h"
#include "report/split_record.h"
#include "report/split_report.h"
#include "report/split_terms.h"
#include "report/svg_chart.h"

namespace moe {
namespace {

std::string tile(const std::string& value, const std::string& label) {
  return fmt::format("<div><b>{}</b><span class=\"soft\">{}</span></div>\n", html_escape(value),
                     html_escape(label));
}

/// What was made, in one line.
std::string title(const SplitRecord& r) {
  std::string text;
  if (r.experts > 0)
    text = fmt::format("{}: {} experts{}, {} chosen per token", r.method, r.experts,
                       r.shared_experts > 0 ? fmt::format(" and {} shared", r.shared_experts) : "",
                       r.top_k);
  if (r.attention)
    text +=
        fmt::format("{}attention: {}", text.empty() ? "" : "; ",
                    attention_phrase(r.attention->kind, r.attention->experts, r.attention->top_k));
  return text;
}

std::string headline(const SplitRecord& r) {
  std::string html =
      fmt::format("<h1>{}</h1>\n<p class=\"soft\">{}, made of {}</p>\n", html_escape(title(r)),
                  html_escape(r.output), html_escape(r.input));
  html += "<div class=\"tiles\">\n";
  if (r.held_out) {
    html += tile(fmt::format("{:.4f}", r.held_out->dense_loss), "held-out loss, dense");
    if (const auto own = r.held_out->loss_by_top_k.find(r.top_k);
        own != r.held_out->loss_by_top_k.end())
      html += tile(
          fmt::format("{:.4f}", own->second),
          fmt::format("right after the split ({:+.4f})", own->second - r.held_out->dense_loss));
  }
  html +=
      tile(readable_count(double(r.parameters_activated)),
           fmt::format("parameters activated of {}", readable_count(double(r.parameters_total))));
  return html + "</div>\n";
}

void attention_rows(const SplitRecord::Attention& a,
                    const std::function<void(const char*, const std::string&)>& row) {
  row("attention", attention_phrase(a.kind, a.experts, a.top_k));
  row("layers of it", fmt::format("{}", a.layers.size()));
  row("its gate",
      fmt::format("{}{}", a.gate, a.softmax_over_all ? ", weights by the softmax over all" : ""));
  if (!a.layers.empty())
    row("its scale", fmt::format("{}: {:g}", a.scale_rule, a.layers.front().scale));
}

std::string settings(const SplitRecord& r) {
  std::vector<std::int64_t> sizes, shared;
  double least = INFINITY, most = -INFINITY;
  for (const SplitRecord::Layer& layer : r.layers) {
    sizes.insert(sizes.end(), layer.expert_sizes.begin(), layer.expert_sizes.end());
    shared.insert(shared.end(), layer.shared_sizes.begin(), layer.shared_sizes.end());
    least = std::min(least, layer.scale);
    most = std::max(most, layer.scale);
  }
  std::string html = "<dl>\n";
  const auto row = [&](const char* label, const std::string& value) {
    html += fmt::format("<dt>{}</dt><dd>{}</dd>\n", label, html_escape(value));
  };
  row("format", r.format);
  if (r.experts > 0) row("layers split", fmt::format("{}", r.layers.size()));
  if (!sizes.empty()) row("neurons of an expert", size_range(sizes));
  if (!shared.empty()) row("neurons of a shared expert", size_range(shared));
  row("method", fmt::format("{}, seed {}", r.method, r.seed));
  if (r.attention) attention_rows(*r.attention, row);
  if (r.experts > 0) {
    row("gate", fmt::format("{}{}{}", r.gate, r.gate_noise ? ", with noise" : "",
                            r.softmax_over_all ? ", weights by the softmax over all" : ""));
    row("scale", fmt::format("{}: {}{}", r.scale_rule,
                             least == most ? fmt::format("{:g}", least)
                                           : fmt::format("{:.3g} to {:.3g}", least, most),
                             r.align ? ", channels aligned" : ""));
  }
  row("parameters", fmt::format("{}, {} activated", r.parameters_total, r.parameters_activated));
  if (r.calibration_tokens > 0) row("calibration", fmt::format("{} tokens", r.calibration_tokens));
  row("planned in", fmt::format("{:.2f} s", r.planning_seconds));
  return html + "</dl>\n";
}

std::string loss_figure(const SplitRecord& r) {
  if (!r.held_out || r.experts == 0) return {};
  LineChart chart;
  chart.x_label = "experts chosen";
  chart.y_label = "loss";
  chart.width = 760;
  chart.height = 300;
  ChartSeries& curve = chart.series.emplace_back();
  curve.name = "held-out loss";
  for (const auto& [k, loss] : r.held_out->loss_by_top_k) curve.points.emplace_back(k, loss);
  curve.marked_x = double(r.top_k);
  chart.reference = {fmt::format("dense {:.4f}", r.held_out->dense_loss), r.held_out->dense_loss};
  return html_figure(
      "Held-out loss by experts chosen", line_chart(chart),
      fmt::format("Nats a token over {} tokens, right after the split, by experts chosen; the "
                  "ring is the model written, the line below the dense model.",
                  r.held_out->tokens));
}

/// Two lines over the layers.
std::string layer_chart(const SplitRecord& r, const std::string& name,
                        double SplitRecord::Quality::*value, const std::string& best_name,
                        double SplitRecord::Quality::*best) {
  LineChart chart;
  chart.x_label = "layer";
  chart.from_zero = true;
  chart.series = {{name, {}, false, {}}, {best_name, {}, true, {}}};
  for (const SplitRecord::Layer& layer : r.layers)
    if (const SplitRecord::Quality* q = r.quality(layer)) {
      chart.series[0].points.emplace_back(layer.layer, q->*value);
      chart.series[1].points.emplace_back(layer.layer, q->*best);
    }
  return line_chart(chart);
}

std::string load_figure(const SplitRecord& r) {
  HeatMap map{"layer", "expert", {}, {}};
  for (const SplitRecord::Layer& layer : r.layers) {
    const SplitRecord::Quality* q = r.quality(layer);
    if (q == nullptr) continue;
    map.rows.push_back(fmt::format("{}", layer.layer));
    auto& row = map.cells.emplace_back();
    const double mean = std::accumulate(q->load.begin(), q->load.end(), 0.0) /
                        double(std::max<std::size_t>(1, q->load.size()));
    for (std::size_t e = 0; e < q->load.size(); ++e) {
      const double ratio = mean > 0 ? double(q->load[e]) / mean : 1;
      row.push_back({ratio, fmt::format("layer {}, expert {}: {} tokens, {:.3f} of the mean",
                                        layer.layer, e, q->load[e], ratio)});
    }
  }
  return html_figure("Load of the experts",
                     "<div class=\"scroll wide\">\n" + heat_map(map) + "</div>\n",
                     fmt::format("Calibration tokens that each routed expert got, over the mean of "
                                 "its layer. Load max, in the table: {}.",
                                 term::kLoadMax));
}

std::string quality_figures(const SplitRecord& r) {
  if (!std::any_of(r.layers.begin(), r.layers.end(),
                   [&](const auto& layer) { return r.quality(layer) != nullptr; }))
    return html_figure("Quality by layer", "",
                       "Not measured: the split was made without calibration text.");
  using Quality = SplitRecord::Quality;
  return "<div class=\"pair\">\n" +
         html_figure(
             "Reconstruction error by layer",
             layer_chart(r, "error", &Quality::error, "least error", &Quality::best_error),
             fmt::format("On the calibration text, with {} experts chosen. error: {}; least "
                         "error: {}.",
                         r.top_k, term::kError, term::kLeastError)) +
         html_figure(
             "Activation recall by layer",
             layer_chart(r, "recall", &Quality::recall, "best recall", &Quality::best_recall),
             fmt::format("recall: {}; best recall: {}.", term::kRecall, term::kBestRecall)) +
         "</div>\n" + load_figure(r);
}

/// All numbers of all layers; columns that say nothing are left out.
std::string layer_table(const SplitRecord& r) {
  struct Column {
    std::string heading;
    std::function<std::string(const SplitRecord::Layer&)> text;  // empty: not measured
  };
  using Quality = SplitRecord::Quality;
  std::vector<Column> columns;
  const auto add = [&](const std::string& heading, auto text) {
    if (std::any_of(r.layers.begin(), r.layers.end(), [&](const auto& l) { return text(l) != ""; }))
      columns.push_back({heading, text});
  };
  const auto add_quality = [&](const char* heading, double Quality::*value, int decimals) {
    add(heading, [&r, value, decimals](const SplitRecord::Layer& layer) {
      const Quality* q = r.quality(layer);
      return q != nullptr ? fmt::format("{:.{}f}", q->*value, decimals) : "";
    });
  };
  add("layer", [](const auto& layer) { return fmt::format("{}", layer.layer); });
  add("scale", [](const auto& layer) { return fmt::format("{:.3f}", layer.scale); });
  add_quality("error", &Quality::error, 4);
  add_quality("least error", &Quality::best_error, 4);
  add_quality("recall", &Quality::recall, 3);
  add_quality("best recall", &Quality::best_recall, 3);
  add_quality("load max", &Quality::load_max, 2);
  add("overlap", [](const auto& layer) { return fmt::format("{:.3f}", layer.overlap); });
  add("gate", [](const auto& layer) {
    return layer.gate_agreement ? fmt::format("{:.2f} %", 100 * *layer.gate_agreement) : "";
  });
  for (std::size_t i = 0; i < r.layers.front().measures.size(); ++i)
    add(r.layers.front().measures[i].first, [i](const auto& layer) {
      return i < layer.measures.size() ? fmt::format("{:.6g}", layer.measures[i].second) : "";
    });

  std::string html = "<div class=\"scroll\"><table>\n<tr>";
  for (const Column& c : columns) html += fmt::format("<th>{}</th>", html_escape(c.heading));
  html += "</tr>\n";
  for (const SplitRecord::Layer& layer : r.layers) {
    html += "<tr>";
    for (const Column& c : columns) html += fmt::format("<td>{}</td>", c.text(layer));
    html += "</tr>\n";
  }
  return html_figure("Layers", html + "</table></div>\n",
                     fmt::format("overlap: {}; gate: {}.", term::kOverlap, term::kGate));
}

/// What calibration text says of the attention's gates.
std::string attention_table(const SplitRecord& r) {
  if (!r.attention) return {};
  std::string rows;
  for (const auto& layer : r.attention->layers)
    if (layer.load_max)
      rows += fmt::format(
          "<tr><td>{}</td><td>{:.2f}</td><td>{}</td></tr>\n", layer.layer, *layer.load_max,
          layer.gate_agreement ? fmt::format("{:.2f} %", 100 * *layer.gate_agreement) : "");
  if (rows.empty()) return {};
  return html_figure(
      "Attention",
      "<div class=\"scroll\"><table>\n<tr><th>layer</th><th>load max</th><th>gate</th></tr>\n" +
          rows + "</table></div>\n",
      fmt::format("Calibration tokens of the attention's experts. load max: {}; gate: {}.",
                  term::kLoadMax, term::kGate));
}

}  // namespace

std::string split_report_html(const std::string& split_json) {
  const SplitRecord r = parse_split_record(split_json, kSplitReport);
  std::string body = headline(r) + settings(r) + loss_figure(r);
  if (r.experts > 0) body += quality_figures(r) + layer_table(r);
  return html_page(title(r), body + attention_table(r));
}

}  // namespace moe
