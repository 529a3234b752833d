// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moe {

// Charts as HTML: an inline SVG, in the styles of html_page.h, with the numbers as tooltips. All
// text is escaped here. Points that are not finite are left out.

struct ChartSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending
  bool dashed = false;
  std::optional<double> marked_x;  // the point that gets a ring
};

struct LineChart {
  std::string x_label, y_label;
  std::vector<ChartSeries> series;                          // a legend is drawn for more than one
  std::optional<std::pair<std::string, double>> reference;  // a horizontal line
  bool from_zero = false;                                   // whether the y axis begins at 0
  int width = 460, height = 260;
};

/// x values are whole numbers. Empty when there is no point to draw.
std::string line_chart(const LineChart& chart);

struct HeatMap {
  std::string row_label, column_label;
  std::vector<std::string> rows;
  struct Cell {
    double ratio = 0;   // to the mean
    std::string title;  // tooltip
  };
  std::vector<std::vector<Cell>> cells;  // [rows][columns], rows may differ in length
};

/// Cells below the mean in one colour, cells above it in another, stronger the further away on a
/// logarithmic scale, up to a quarter and four times the mean; with a key to the colours.
std::string heat_map(const HeatMap& map);

}  // namespace moe
