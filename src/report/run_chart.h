// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "report/points.h"

namespace moe {

// Charts of long series as HTML. The curves are an SVG that stretches with the page, the numbers at
// its sides are text of one size on every screen. In the styles of run_style.h, whose script adds a
// reader for the values. All text is escaped here; points that are not finite are left out.

struct RunCurve {
  std::string name;
  Points points;
  std::size_t colour = 0;   // curves that belong together have the same
  bool background = false;  // pale and thin, without a name in the legend: what another one smooths
  bool dots = false;        // few points, each of which counts
};

/// Something that happened at one place of the x axis.
struct RunMark {
  double x = 0;
  std::string text;
  std::size_t colour = 0;
  bool line = false;  // over the whole height, not a dot at the top
};

struct RunChart {
  std::string x_label, y_label;
  std::vector<RunCurve> curves;
  std::vector<RunMark> marks;
  bool stacked = false;  // areas above one another; all curves have the same x
  bool from_zero = false;
  bool logarithmic = false;      // the y axis
  bool exponential_too = false;  // e^y at the right side: of a loss the perplexity
};

/// Empty when there is no point to draw. A few values far above all others are cut off, which the
/// chart then says.
std::string run_chart(const RunChart& chart);

/// Share of a run's rows (x) against numbered things (y), a cell per value: the further from 1 the
/// stronger its colour, as in heat_map(). NaN stays empty.
struct RunMap {
  std::string name;
  std::vector<std::vector<double>> rows;  // [thing][column], ratios to the mean
};
std::string run_map(const RunMap& map);

}  // namespace moe
