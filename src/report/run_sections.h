// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "report/run_chart.h"
#include "report/run_record.h"

namespace moe {

/// The charts of one run: domains, weights, time, memory, the load of every expert. `headed`: under
/// the run's name, where there are several. Empty when the run has no numbers.
std::string run_section(const RunRecord& run, bool headed);

/// A chart under its heading; empty without points.
std::string figure_of(const std::string& heading, const RunChart& chart,
                      const std::string& explanation);

/// A series over `x`, a number for each line of the run.
Points points_of(const RunRecord::Series& series, std::span<const double> x);

/// Adds the points, pale, and above them smoothed; few points only as they are.
void add_smoothed(RunChart& chart, const std::string& name, std::size_t colour,
                  const Points& points);

/// How a series is drawn.
enum class Drawn : std::uint8_t { smoothed, exact, dots };

/// Adds a curve for each series of the run below `prefix`; smoothed ones without the original.
void add_each(RunChart& chart, const RunRecord& run, const std::string& prefix,
              std::span<const double> x, Drawn drawn);

}  // namespace moe
