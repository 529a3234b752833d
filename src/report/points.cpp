// SPDX-License-Identifier: Apache-2.0
#include "report/points.h"

#include <algorithm>
#include <cmath>

namespace moe {

std::vector<double> smoothed(std::span<const double> values) {
  const std::size_t n = values.size();
  std::vector<double> sums(n + 1);
  for (std::size_t i = 0; i < n; ++i) sums[i + 1] = sums[i] + values[i];
  std::vector<double> out(n);
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t before = std::min(i, n / 50), after = std::min(before, n - 1 - i);
    out[i] = (sums[i + after + 1] - sums[i - before]) / double(before + 1 + after);
  }
  return out;
}

Points thinned(const Points& points, std::size_t most) {
  if (points.size() <= most) return points;
  const auto stretches = double(std::max<std::size_t>(1, most / 4));
  const double first = points.front().first, width = points.back().first - first;
  Points out;
  for (std::size_t begin = 0; begin < points.size();) {
    const auto stretch = [&](std::size_t i) {
      return std::min(stretches - 1, std::floor((points[i].first - first) / width * stretches));
    };
    std::size_t end = begin, least = begin, greatest = begin;
    for (; end < points.size() && stretch(end) == stretch(begin); ++end) {
      if (points[end].second < points[least].second) least = end;
      if (points[end].second > points[greatest].second) greatest = end;
    }
    std::size_t previous = points.size();
    for (const std::size_t i :
         {begin, std::min(least, greatest), std::max(least, greatest), end - 1}) {
      if (i != previous) out.push_back(points[i]);
      previous = i;
    }
    begin = end;
  }
  return out;
}

std::vector<double> column_means(std::span<const std::size_t> rows, std::span<const double> values,
                                 std::size_t all_rows, std::size_t columns) {
  std::vector<double> sums(columns), counts(columns);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::size_t column = rows[i] * columns / all_rows;
    sums[column] += values[i];
    ++counts[column];
  }
  for (std::size_t c = 0; c < columns; ++c) sums[c] = counts[c] > 0 ? sums[c] / counts[c] : NAN;
  return sums;
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const auto at = values.begin() + std::ptrdiff_t(q * double(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace moe
