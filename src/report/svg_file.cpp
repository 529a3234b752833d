// SPDX-License-Identifier: Apache-2.0
#include "report/svg_file.h"

#include <fmt/format.h>

#include <array>

#include "report/html_page.h"

namespace moe {
namespace {

constexpr std::array kLineColours = {"#1a5fd8", "#b8400a", "#14a880", "#43267f",
                                     "#dd9200", "#62b4f0", "#33302e", "#c98ab4"};
constexpr int kLegendRow = 18, kMargin = 10;

std::string styles() {
  std::string css =
      "text{fill:#5c5b57;font:12px system-ui,\"DejaVu Sans\",sans-serif}.value{fill:#17171a}"
      ".grid{stroke:#e4e3dc}.line{fill:none;stroke-width:2;stroke-linejoin:round;"
      "stroke:currentColor}.dashed{stroke-dasharray:6 4}.dotted{stroke-dasharray:2 4}"
      ".reference{stroke:#5c5b57;stroke-dasharray:2 3}circle{fill:currentColor}"
      ".marked{stroke:#17171a}";
  for (std::size_t i = 0; i < kLineColours.size(); ++i)
    css += fmt::format(".c{}{{color:{}}}", i + 1, kLineColours[i]);
  return css;
}

}  // namespace

std::string svg_file(const LineChart& chart) {
  const std::string html = line_chart(chart);
  if (html.empty()) return {};
  const int legend = chart.series.size() > 1 ? int(chart.series.size()) * kLegendRow + kMargin : 0;
  const int width = chart.width + 2 * kMargin, height = chart.height + legend + 2 * kMargin;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\">\n<style>{2}</style>\n<rect width=\"{0}\" height=\"{1}\" "
      "fill=\"#fcfcfb\"/>\n",
      width, height, styles());
  for (std::size_t i = 0; legend > 0 && i < chart.series.size(); ++i) {
    const int y = kMargin + int(i) * kLegendRow + kLegendRow / 2;
    svg += fmt::format(
        "<line class=\"line c{0}{1}\" x1=\"{2}\" y1=\"{3}\" x2=\"{4}\" y2=\"{3}\"/>"
        "<text class=\"value\" x=\"{5}\" y=\"{6}\">{7}</text>\n",
        i % kLineColours.size() + 1,
        i >= kLineColours.size() ? " dotted"
        : chart.series[i].dashed ? " dashed"
                                 : "",
        kMargin, y, kMargin + 26, kMargin + 34, y + 4, html_escape(chart.series[i].name));
  }
  // The chart itself is a picture within the picture.
  constexpr std::string_view kBegin = "<svg viewBox=";
  const std::string picture = html.substr(html.rfind(kBegin) + 4);
  return svg +
         fmt::format("<svg x=\"{}\" y=\"{}\" height=\"{}\"", kMargin, legend + kMargin,
                     chart.height) +
         picture + "</svg>\n";
}

}  // namespace moe
