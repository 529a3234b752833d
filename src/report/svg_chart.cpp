// SPDX-License-Identifier: Apache-2.0
#include "report/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "report/html_page.h"

namespace moe {
namespace {

constexpr std::size_t kColours = 8;
constexpr double kLeft = 52, kRight = 14, kTop = 22, kBottom = 40;

/// Values [first, last] by `step`, a round number.
struct Axis {
  double first = 0, last = 1, step = 1;
};

Axis round_axis(double least, double most, double ticks, double least_step) {
  if (!(most > least)) most = least + std::max(least_step, std::abs(least) * 0.1 + 1e-9);
  const double rough = (most - least) / ticks;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough * (1 - 1e-9)) {
      step = factor * power;
      break;
    }
  step = std::max(step, least_step);
  return {std::floor(least / step + 1e-9) * step, std::ceil(most / step - 1e-9) * step, step};
}

std::string swatch(std::size_t series, bool dashed) {
  return fmt::format(
      "<svg class=\"c{0}\" width=\"26\" height=\"10\"><line class=\"line c{0}{1}\" x1=\"0\" "
      "y1=\"5\" x2=\"26\" y2=\"5\"/><circle cx=\"13\" cy=\"5\" r=\"3.5\"/></svg>",
      series % kColours + 1,
      series >= kColours ? " dotted"
      : dashed           ? " dashed"
                         : "");
}

std::string legend(const std::vector<ChartSeries>& series) {
  std::string html = "<div class=\"legend\">";
  for (std::size_t i = 0; i < series.size(); ++i)
    html += fmt::format("<span class=\"c{}\">{}<em>{}</em></span>", i % kColours + 1,
                        swatch(i, series[i].dashed), html_escape(series[i].name));
  return html + "</div>\n";
}

/// Where values lie in the picture.
class Plane {
 public:
  Plane(const LineChart& chart, double x_least, double x_most, Axis y)
      : chart_(chart), x_least_(x_least), x_most_(x_most), y_(y) {}

  double x(double value) const {
    // A single column stands in the middle.
    if (x_most_ == x_least_) return kLeft + (chart_.width - kLeft - kRight) / 2;
    return kLeft + (value - x_least_) / (x_most_ - x_least_) * (chart_.width - kLeft - kRight);
  }
  double y(double value) const {
    return chart_.height - kBottom -
           (value - y_.first) / (y_.last - y_.first) * (chart_.height - kTop - kBottom);
  }

  std::string grid() const {
    std::string svg;
    const int steps = int(std::lround((y_.last - y_.first) / y_.step));
    const int decimals = std::max(0, int(-std::floor(std::log10(y_.step) + 1e-9)));
    for (int i = 0; i <= steps; ++i) {
      const double value = y_.first + i * y_.step;
      svg += fmt::format(
          "<line class=\"grid\" x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{2:.1f}\" y2=\"{1:.1f}\"/>"
          "<text x=\"{3:.1f}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.{6}f}</text>\n",
          kLeft, y(value), chart_.width - kRight, kLeft - 8, y(value) + 4, value, decimals);
    }
    const double room = (chart_.width - kLeft - kRight) / 34;
    const Axis ticks = round_axis(x_least_, x_most_, std::max(1.0, room), 1);
    const int count = int(std::lround((x_most_ - x_least_) / ticks.step));
    for (int i = 0; i <= count; ++i) {
      const double value = x_least_ + i * ticks.step;
      if (value > x_most_) break;
      svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.0f}</text>\n",
                         x(value), chart_.height - kBottom + 17, value);
    }
    svg += fmt::format(
        "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n"
        "<text x=\"0\" y=\"12\">{}</text>\n",
        kLeft + (chart_.width - kLeft - kRight) / 2, chart_.height - 6, html_escape(chart_.x_label),
        html_escape(chart_.y_label));
    return svg;
  }

 private:
  const LineChart& chart_;
  double x_least_, x_most_;
  Axis y_;
};

std::string draw(const ChartSeries& series, std::size_t index, const LineChart& chart,
                 const Plane& plane) {
  std::string path, dots;
  for (const auto& [x, y] : series.points) {
    if (!std::isfinite(y)) continue;
    path += fmt::format("{:.1f},{:.1f} ", plane.x(x), plane.y(y));
    const bool marked = series.marked_x == x;
    dots += fmt::format(
        "<circle class=\"{} c{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}, {} {:.0f}: "
        "{:.4f}</title></circle>\n",
        marked ? "marked" : "dot", index % kColours + 1, plane.x(x), plane.y(y),
        marked ? "5.5" : "4", html_escape(series.name), html_escape(chart.x_label), x, y);
    if (marked && chart.series.size() == 1)
      dots += fmt::format("<text class=\"value\" x=\"{:.1f}\" y=\"{:.1f}\">{:.4f}</text>\n",
                          plane.x(x) + 9, plane.y(y) - 7, y);
  }
  if (path.empty()) return {};
  path.pop_back();
  return fmt::format("<polyline class=\"line c{}{}\" points=\"{}\"/>\n{}", index % kColours + 1,
                     index >= kColours ? " dotted"
                     : series.dashed   ? " dashed"
                                       : "",
                     path, dots);
}

/// How far a ratio is from 1: -1 for a quarter or less, 1 for four times or more.
double strength(double ratio) {
  return ratio > 0 ? std::clamp(std::log2(ratio) / 2, -1.0, 1.0) : -1.0;
}

std::string cell(double x, double y, double width, double height, double ratio,
                 const std::string& title) {
  constexpr double kStrongest = 0.85;  // of the colour: a number must stay legible on it
  const double s = strength(ratio);
  return fmt::format(
      "<g><title>{0}</title><rect class=\"{1}\" fill-opacity=\"{2:.3f}\" x=\"{3:.1f}\" "
      "y=\"{4:.1f}\" width=\"{5:.1f}\" height=\"{6:.1f}\"/><rect class=\"cell\" "
      "pointer-events=\"all\" x=\"{3:.1f}\" y=\"{4:.1f}\" width=\"{5:.1f}\" height=\"{6:.1f}\"/>",
      html_escape(title), s < 0 ? "less" : "more", kStrongest * std::abs(s), x, y, width, height);
}

/// The cells of the key: a quarter, ..., four times the mean.
std::string key(double x, double y) {
  struct Step {
    double ratio;
    const char* label;
    double width;  // with the label
  };
  constexpr Step kSteps[] = {{0.25, "\xC2\xBC or less", 84},
                             {0.5, "\xC2\xBD", 46},
                             {1, "mean", 68},
                             {2, "2", 42},
                             {4, "4 or more", 90}};
  std::string svg;
  for (const Step& step : kSteps) {
    svg += cell(x, y, 16, 12, step.ratio, step.label) + "</g>" +
           fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", x + 21, y + 10, step.label);
    x += step.width;
  }
  return svg;
}

}  // namespace

std::string line_chart(const LineChart& chart) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double x_least = kInfinity, x_most = -kInfinity, y_least = kInfinity, y_most = -kInfinity;
  for (const ChartSeries& s : chart.series)
    for (const auto& [x, y] : s.points) {
      if (!std::isfinite(y)) continue;
      x_least = std::min(x_least, x);
      x_most = std::max(x_most, x);
      y_least = std::min(y_least, y);
      y_most = std::max(y_most, y);
    }
  if (x_least > x_most) return {};
  const bool reference = chart.reference && std::isfinite(chart.reference->second);
  if (reference) {
    y_least = std::min(y_least, chart.reference->second);
    y_most = std::max(y_most, chart.reference->second);
  }
  if (chart.from_zero) y_least = std::min(y_least, 0.0);
  const Plane plane(chart, x_least, x_most, round_axis(y_least, y_most, 5, 0));

  std::string svg = fmt::format("<svg viewBox=\"0 0 {0} {1}\" width=\"{0}\" role=\"img\">\n{2}",
                                chart.width, chart.height, plane.grid());
  if (reference) {
    const double y = plane.y(chart.reference->second);
    svg += fmt::format(
        "<line class=\"reference\" x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{2:.1f}\" y2=\"{1:.1f}\"/>"
        "<text class=\"value\" x=\"{3:.1f}\" y=\"{4:.1f}\">{5}</text>\n",
        kLeft, y, chart.width - kRight, kLeft + 6, y - 6, html_escape(chart.reference->first));
  }
  for (std::size_t i = 0; i < chart.series.size(); ++i)
    svg += draw(chart.series[i], i, chart, plane);
  return (chart.series.size() > 1 ? legend(chart.series) : "") + svg + "</svg>\n";
}

std::string heat_map(const HeatMap& map) {
  constexpr double kHeader = 38, kLabels = 46, kKey = 30;
  std::size_t columns = 1;
  for (const auto& row : map.cells) columns = std::max(columns, row.size());
  const double width = std::clamp(880.0 / double(columns), 12.0, 56.0);
  const double height = map.cells.size() > 40 ? 14 : 22;
  const bool numbers = width >= 34 && height >= 20;
  const double all_width = std::max(480.0, kLabels + width * double(columns) + 1);
  const double all_height = kHeader + height * double(map.cells.size()) + kKey;

  std::string svg = fmt::format(
      "<svg viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" role=\"img\">\n"
      "<text x=\"{2}\" y=\"12\">{3}</text>\n<text x=\"0\" y=\"{4}\">{5}</text>\n",
      all_width, all_height, kLabels, html_escape(map.column_label), kHeader - 6,
      html_escape(map.row_label));
  const auto every = std::max<std::size_t>(1, std::size_t(std::ceil(26 / width)));
  for (std::size_t c = 0; c < columns; c += every)
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                       kLabels + (double(c) + 0.5) * width, kHeader - 6, c);
  for (std::size_t r = 0; r < map.cells.size(); ++r) {
    const double y = kHeader + double(r) * height;
    svg += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLabels - 10,
                       y + height / 2 + 4, html_escape(map.rows.at(r)));
    for (std::size_t c = 0; c < map.cells[r].size(); ++c) {
      const auto& [ratio, title] = map.cells[r][c];
      const double x = kLabels + double(c) * width;
      svg += cell(x, y, width, height, ratio, title);
      if (numbers)
        svg += fmt::format(
            "<text class=\"value\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\" "
            "pointer-events=\"none\">{:.2f}</text>",
            x + width / 2, y + height / 2 + 4, ratio);
      svg += "</g>\n";
    }
  }
  return svg + key(kLabels, all_height - 16) + "</svg>\n";
}

}  // namespace moe
