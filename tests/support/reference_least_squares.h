// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "support/reference_gemm.h"

/// Least squares as plain loops in f64.
namespace moe::reference {

/// x of a x = b by Gaussian elimination with row pivots. a: [n, n]; b and x: [n, columns].
inline std::vector<double> solve(std::vector<double> a, std::vector<double> b, std::size_t n) {
  const std::size_t columns = b.size() / n;
  for (std::size_t k = 0; k < n; ++k) {
    std::size_t pivot = k;
    for (std::size_t i = k + 1; i < n; ++i)
      if (std::fabs(a[i * n + k]) > std::fabs(a[pivot * n + k])) pivot = i;
    for (std::size_t j = 0; j < n; ++j) std::swap(a[k * n + j], a[pivot * n + j]);
    for (std::size_t j = 0; j < columns; ++j) std::swap(b[k * columns + j], b[pivot * columns + j]);
    for (std::size_t i = 0; i < n; ++i) {
      if (i == k) continue;
      const double factor = a[i * n + k] / a[k * n + k];
      for (std::size_t j = k; j < n; ++j) a[i * n + j] -= factor * a[k * n + j];
      for (std::size_t j = 0; j < columns; ++j) b[i * columns + j] -= factor * b[k * columns + j];
    }
  }
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < columns; ++j) b[i * columns + j] /= a[i * n + i];
  return b;
}

/// argmin over w of |y - x w|^2 + share * mean(diagonal of x^T x) |w - prior|^2. x: [rows, n];
/// y: [rows, columns]; an empty prior is zero.
inline std::vector<double> ridge(const std::vector<double>& x, const std::vector<double>& y,
                                 std::size_t rows, double share,
                                 const std::vector<double>& prior = {}) {
  const std::size_t n = x.size() / rows, columns = y.size() / rows;
  const auto i64 = [](std::size_t v) { return static_cast<std::int64_t>(v); };
  std::vector<double> gram = product(x, true, x, false, i64(n), i64(n), i64(rows));
  std::vector<double> moments = product(x, true, y, false, i64(n), i64(columns), i64(rows));
  double mean = 0;
  for (std::size_t j = 0; j < n; ++j) mean += gram[j * n + j] / double(n);
  for (std::size_t j = 0; j < n; ++j) gram[j * n + j] += share * mean;
  if (!prior.empty())
    for (std::size_t i = 0; i < moments.size(); ++i) moments[i] += share * mean * prior[i];
  return solve(gram, moments, n);
}

/// |y - x w|^2 / |y|^2
inline double relative_residual(const std::vector<double>& x, const std::vector<double>& y,
                                const std::vector<double>& w, std::size_t rows) {
  const std::size_t n = x.size() / rows, columns = y.size() / rows;
  double error = 0, norm = 0;
  for (std::size_t t = 0; t < rows; ++t)
    for (std::size_t j = 0; j < columns; ++j) {
      double difference = y[t * columns + j];
      norm += difference * difference;
      for (std::size_t i = 0; i < n; ++i) difference -= x[t * n + i] * w[i * columns + j];
      error += difference * difference;
    }
  return error / norm;
}

}  // namespace moe::reference
