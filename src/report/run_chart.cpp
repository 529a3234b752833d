// SPDX-License-Identifier: Apache-2.0
#include "report/run_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "report/axis.h"
#include "report/html_page.h"

namespace moe {
namespace {

constexpr std::size_t kColours = 8;
constexpr std::size_t kPoints = 900;  // of a curve: more than a screen has columns for
constexpr double kSide = 1000;        // of the SVG's own coordinates

std::string colour(std::size_t i) { return fmt::format("c{}", i % kColours + 1); }
/// From the ninth on, colours come again with dashes.
const char* dashes(std::size_t i) {
  return i < kColours ? "" : i < 2 * kColours ? " dashed" : " dotted";
}

struct Plane {
  Axis x, y;
  double left(double value) const { return std::clamp(x.at(value), 0.0, 1.0); }
  double top(double value) const { return 1 - y.at(value); }
};

/// A coordinate of the SVG, short.
std::string number(double share) {
  const double value = std::clamp(share, -1.0, 2.0) * kSide;
  const std::string text = fmt::format("{:.1f}", value);
  return text.ends_with(".0") ? text.substr(0, text.size() - 2) : text;
}

std::string path_of(const Points& points, const Plane& plane) {
  std::string path;
  for (const auto& [x, y] : points)
    path += fmt::format("{}{} {}", path.empty() ? "M" : "L", number(plane.left(x)),
                        number(plane.top(y)));
  return path;
}

/// The chart with finite points alone, thinned; stacked curves added up.
std::vector<RunCurve> prepared(const RunChart& chart) {
  std::vector<RunCurve> curves;
  for (const RunCurve& c : chart.curves) {
    RunCurve kept = c;
    std::erase_if(kept.points, [&](const auto& p) {
      return !std::isfinite(p.second) || (chart.logarithmic && p.second <= 0);
    });
    if (chart.stacked && !curves.empty())
      for (std::size_t i = 0; i < kept.points.size(); ++i)
        kept.points[i].second += curves.back().points.at(i).second;
    if (!chart.stacked) kept.points = thinned(kept.points, kPoints);
    if (!kept.points.empty()) curves.push_back(std::move(kept));
  }
  return curves;
}

/// Where a few values lie far above the others, the others are what is drawn.
double useful_most(const std::vector<RunCurve>& curves, double least) {
  double most = -std::numeric_limits<double>::infinity(), usual = most;
  for (const RunCurve& c : curves) {
    std::vector<double> values;
    for (const auto& [x, y] : c.points) values.push_back(y);
    most = std::max(most, *std::max_element(values.begin(), values.end()));
    usual = std::max(usual, values.size() < 50 ? most : quantile(values, 0.97));
  }
  const double limit = usual + 0.5 * (usual - least);
  return most > limit ? limit : most;
}

std::string labels(const Plane& plane, const RunChart& chart) {
  std::string html;
  for (const double tick : plane.y.ticks()) {
    html += fmt::format("<span class=\"yt\" style=\"top:{:.2f}%\">{}</span>", 100 * plane.top(tick),
                        plane.y.text(tick));
    if (chart.exponential_too)
      html += fmt::format("<span class=\"rt\" style=\"top:{:.2f}%\">{:.3g}</span>",
                          100 * plane.top(tick), std::exp(tick));
  }
  for (const double tick : plane.x.ticks())
    html += fmt::format("<span class=\"xt\" style=\"left:{:.2f}%\">{}</span>",
                        100 * plane.x.at(tick), plane.x.text(tick));
  return html + "\n";
}

std::string grid(const Plane& plane) {
  std::string path;
  for (const double tick : plane.y.ticks())
    path += fmt::format("M0 {}H{}", number(plane.top(tick)), kSide);
  return fmt::format("<path class=\"grid\" d=\"{}\"/>\n", path);
}

std::string draw(const RunCurve& c, const Plane& plane, bool stacked) {
  std::string path = path_of(c.points, plane);
  if (stacked) {
    path += fmt::format("L{} {}L{} {}Z", number(plane.left(c.points.back().first)), kSide,
                        number(plane.left(c.points.front().first)), kSide);
    return fmt::format("<path class=\"area {}{}\" data-name=\"{}\" d=\"{}\"/>\n", colour(c.colour),
                       c.colour < kColours ? "" : " pale", html_escape(c.name), path);
  }
  if (c.background)
    return fmt::format("<path class=\"raw {}\" data-of=\"{}\" d=\"{}\"/>\n", colour(c.colour),
                       html_escape(c.name), path);
  std::string svg = fmt::format("<path class=\"line {}{}\" data-name=\"{}\" d=\"{}\"/>\n",
                                colour(c.colour), dashes(c.colour), html_escape(c.name), path);
  // A line of no length with round ends is a dot that does not stretch with the picture.
  if (c.dots || c.points.size() == 1) {
    std::string dots;
    for (const auto& [x, y] : c.points)
      dots += fmt::format("M{} {}h0", number(plane.left(x)), number(plane.top(y)));
    svg += fmt::format("<path class=\"dots {}\" d=\"{}\"/>\n", colour(c.colour), dots);
  }
  return svg;
}

std::string draw(const RunMark& mark, const Plane& plane) {
  const std::string x = number(plane.left(mark.x));
  return fmt::format("<path class=\"{} {}\" d=\"M{} {}\"><title>{}</title></path>\n",
                     mark.line ? "event" : "dots", colour(mark.colour), x,
                     mark.line ? fmt::format("0V{}", kSide) : std::string("15h0"),
                     html_escape(mark.text));
}

std::string legend(const std::vector<RunCurve>& curves, bool stacked) {
  std::string html;
  std::size_t named = 0;
  for (const RunCurve& c : curves) {
    if (c.background) continue;
    ++named;
    html += fmt::format(
        "<span data-key=\"{0}\"><svg class=\"key\" viewBox=\"0 0 22 10\"><path class=\"{1} "
        "{2}{3}\" "
        "d=\"{4}\"/></svg>{0}</span>",
        html_escape(c.name), stacked ? "area" : "line", colour(c.colour),
        stacked ? (c.colour < kColours ? "" : " pale") : dashes(c.colour),
        stacked ? "M0 0H22V10H0Z" : "M0 5H22");
  }
  return named > 1 ? "<div class=\"legend\">" + html + "</div>\n" : "";
}

}  // namespace

std::string run_chart(const RunChart& chart) {
  std::vector<RunCurve> curves = prepared(chart);
  if (curves.empty()) return {};
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double x_least = kInfinity, x_most = -kInfinity, least = kInfinity, highest = -kInfinity;
  for (const RunCurve& c : curves) {
    x_least = std::min(x_least, c.points.front().first);
    x_most = std::max(x_most, c.points.back().first);
    for (const auto& [x, y] : c.points) {
      least = std::min(least, y);
      highest = std::max(highest, y);
    }
  }
  if (chart.from_zero || chart.stacked) least = std::min(least, 0.0);
  const double most = chart.logarithmic ? highest : useful_most(curves, least);
  const Plane plane{Axis::exact(x_least, x_most, 5),
                    Axis::rounded(least, most, 5, chart.logarithmic)};

  std::string html = legend(curves, chart.stacked);
  html += fmt::format(
      "<div class=\"unit\"><span>{}</span><span>{}</span></div>\n<div class=\"chart{}\" "
      "data-x=\"{:.9g} {:.9g}\" data-y=\"{:.9g} {:.9g}\" data-log=\"{}\" data-stacked=\"{}\" "
      "data-label=\"{}\">\n{}",
      html_escape(chart.y_label),
      highest > plane.y.last()
          ? fmt::format("the highest, {}, is cut off", Axis::rounded(0, highest, 50).text(highest))
      : chart.exponential_too ? "perplexity"
                              : "",
      chart.exponential_too ? " both" : "", plane.x.first(), plane.x.last(), plane.y.first(),
      plane.y.last(), int(plane.y.logarithmic()), int(chart.stacked), html_escape(chart.x_label),
      labels(plane, chart));
  html += fmt::format(
      "<svg viewBox=\"0 0 {0} {0}\" preserveAspectRatio=\"none\" role=\"img\" "
      "aria-label=\"{1} by {2}\">\n{3}",
      kSide, html_escape(chart.y_label), html_escape(chart.x_label), grid(plane));
  // Areas reach down to zero, so the topmost comes first and lower ones cover it; of lines the
  // first is the last to be drawn over.
  if (chart.stacked) std::reverse(curves.begin(), curves.end());
  for (const RunCurve& c : curves)
    if (c.background) html += draw(c, plane, false);
  for (const RunCurve& c : curves)
    if (!c.background) html += draw(c, plane, chart.stacked);
  for (const RunMark& mark : chart.marks) html += draw(mark, plane);
  return html + fmt::format("</svg>\n</div>\n<div class=\"x-label\">{}</div>\n",
                            html_escape(chart.x_label));
}

std::string run_map(const RunMap& map) {
  constexpr int kLevels = 8;  // on either side of the mean; the strongest: a quarter, four times
  std::string paths[2][kLevels + 1];
  std::size_t columns = 0;
  for (std::size_t r = 0; r < map.rows.size(); ++r) {
    const auto level = [&](std::size_t c) {
      const double ratio = map.rows[r][c];
      if (std::isnan(ratio)) return 0;
      const double strength = ratio > 0 ? std::clamp(std::log2(ratio) / 2, -1.0, 1.0) : -1.0;
      return int(std::lround(strength * kLevels));
    };
    columns = std::max(columns, map.rows[r].size());
    for (std::size_t c = 0; c < map.rows[r].size();) {
      std::size_t end = c + 1;
      while (end < map.rows[r].size() && level(end) == level(c)) ++end;
      if (const int l = level(c); l != 0)
        paths[l > 0][std::abs(l)] += fmt::format("M{} {}h{}v1h-{}z", c, r, end - c, end - c);
      c = end;
    }
  }
  std::string svg = fmt::format(
      "<div class=\"map\"><b>{0}</b><svg viewBox=\"0 0 {1} {2}\" preserveAspectRatio=\"none\" "
      "style=\"height:{3}px\" role=\"img\" aria-label=\"load by expert and time, {0}\">",
      html_escape(map.name), columns, map.rows.size(),
      std::clamp<std::size_t>(map.rows.size() * 11, 44, 200));
  for (int above = 0; above < 2; ++above)
    for (int l = 1; l <= kLevels; ++l)
      if (!paths[above][l].empty())
        svg += fmt::format("<path class=\"{}\" fill-opacity=\"{:.2f}\" d=\"{}\"/>",
                           above ? "more" : "less", double(l) / kLevels, paths[above][l]);
  return svg + "</svg></div>\n";
}

}  // namespace moe
