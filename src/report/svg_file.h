// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "report/svg_chart.h"

namespace moe {

/// A line chart as an SVG file that stands alone: with its legend, its styles and a background, for
/// documents that cannot hold HTML. Empty when there is no point to draw.
std::string svg_file(const LineChart& chart);

}  // namespace moe
