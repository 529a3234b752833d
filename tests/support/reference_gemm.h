// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

/// Matrix products as plain loops in f64.
namespace moe::reference {

/// op(a) op(b) + addend; op(a): [m, k], op(b): [k, n]. An empty addend is zero.
inline std::vector<double> product(std::span<const double> a, bool transpose_a,
                                   std::span<const double> b, bool transpose_b, std::int64_t m,
                                   std::int64_t n, std::int64_t k,
                                   const std::vector<double>& addend = {}) {
  std::vector<double> c(static_cast<std::size_t>(m * n));
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = addend.empty() ? 0.0 : addend[std::size_t(i * n + j)];
      for (std::int64_t p = 0; p < k; ++p)
        sum += a[std::size_t(transpose_a ? p * m + i : i * k + p)] *
               b[std::size_t(transpose_b ? j * k + p : p * n + j)];
      c[std::size_t(i * n + j)] = sum;
    }
  return c;
}

}  // namespace moe::reference
