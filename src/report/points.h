// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace moe {

/// (x, y) of a curve, x ascending.
using Points = std::vector<std::pair<double, double>>;

/// Each value as the mean of itself and its neighbours on either side, a fiftieth of all at most.
/// Near the beginning equally many on both sides, so that a steep descent stays where it is; at the
/// end those before it.
std::vector<double> smoothed(std::span<const double> values);

/// At most about `most` points: of each stretch of the x axis the first, the least, the greatest
/// and the last, so that no spike is lost. Few points are given as they are.
Points thinned(const Points& points, std::size_t most);

/// Means of values [rows.size()] over `columns` stretches of [0, all_rows); NaN where there is
/// none.
std::vector<double> column_means(std::span<const std::size_t> rows, std::span<const double> values,
                                 std::size_t all_rows, std::size_t columns);

/// The value below which a share `q` of all lies; values need no order. 0 for none.
double quantile(std::vector<double> values, double q);

}  // namespace moe
