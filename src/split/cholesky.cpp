// SPDX-License-Identifier: Apache-2.0
#include "split/cholesky.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/vectorize.h"

namespace moe {
namespace {

// Below this width triangles are worked off element by element, above it by products of halves.
constexpr std::int64_t kNarrow = 16;

// The least jitter over what rounding leaves in a pivot: then rounding decides a thousandth of what
// only the jitter determines.
constexpr double kJitter = 1000;

Matrix<const double> reading(Matrix<double> m) { return {m.data, m.stride}; }

Matrix<double> moved(Matrix<double> m, std::int64_t row, std::int64_t col) {
  return {m.data + row * m.stride + col, m.stride};
}

// c -= a b^T, each row-major: a [rows, depth], b [cols, depth].
void subtract_product(std::int64_t rows, std::int64_t cols, std::int64_t depth, Matrix<double> a,
                      Matrix<double> b, Matrix<double> c) {
  if (depth == 0) return;
  thread_local std::vector<double> product;
  product.resize(std::size_t(rows * cols));
  matrix_product({rows, cols, depth, false, true, 0}, reading(a), reading(b),
                 Matrix<double>{product.data(), cols});
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j)
      c.data[i * c.stride + j] -= product[std::size_t(i * cols + j)];
}

// x = x L^-T for `rows` rows of x; L: [width, width].
void solve_rows(std::int64_t rows, std::int64_t width, Matrix<double> l, Matrix<double> x) {
  if (width > kNarrow) {
    const std::int64_t half = width / 2;
    solve_rows(rows, half, l, x);
    subtract_product(rows, width - half, half, x, moved(l, half, 0), moved(x, 0, half));
    solve_rows(rows, width - half, moved(l, half, half), moved(x, 0, half));
    return;
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    double* row = x.data + r * x.stride;
    for (std::int64_t j = 0; j < width; ++j) {
      const double* lj = l.data + j * l.stride;
      double sum = row[j];
      for (std::int64_t p = 0; p < j; ++p) sum -= row[p] * lj[p];
      row[j] = sum / lj[j];
    }
  }
}

// Replaces the lower triangle of a by its factor. Returns the first column whose pivot is not above
// its entry of `least`, or `width`.
std::int64_t factor_block(std::int64_t width, Matrix<double> a, const double* least) {
  if (width > kNarrow) {
    const std::int64_t half = width / 2;
    const Matrix<double> below = moved(a, half, 0), rest = moved(a, half, half);
    const std::int64_t failed = factor_block(half, a, least);
    if (failed < half) return failed;
    solve_rows(width - half, half, a, below);
    subtract_product(width - half, width - half, half, below, below, rest);
    return half + factor_block(width - half, rest, least + half);
  }
  for (std::int64_t j = 0; j < width; ++j) {
    double* row = a.data + j * a.stride;
    solve_rows(1, j, a, {row, a.stride});
    double pivot = row[j];
    for (std::int64_t p = 0; p < j; ++p) pivot -= row[p] * row[p];
    if (!(pivot > least[j])) return j;
    row[j] = std::sqrt(pivot);
  }
  return width;
}

// The same for a whole matrix, column by column of panels.
std::int64_t factor(const LowerMatrix& a, const std::vector<double>& least) {
  for (std::int64_t k = 0; k < a.panels(); ++k) {
    const std::int64_t first = a.first(k), width = a.rows(k), below = a.panels() - k;
    run_tasks(below, [&](std::int64_t task) {
      const std::int64_t i = k + task;
      subtract_product(a.rows(i), width, first, a.at(i, 0, 0), a.at(k, 0, 0), a.at(i, 0, first));
    });
    const Matrix<double> corner = a.at(k, 0, first);
    const std::int64_t failed = factor_block(width, corner, least.data() + first);
    if (failed < width) return first + failed;
    run_tasks(below - 1, [&](std::int64_t task) {
      const std::int64_t i = k + 1 + task;
      solve_rows(a.rows(i), width, corner, a.at(i, 0, first));
    });
  }
  return a.size();
}

// to += from * factor
MOE_VECTORIZE void add_multiple(std::int64_t n, double factor, const double* __restrict from,
                                double* __restrict to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

MOE_VECTORIZE void divide_negated(std::int64_t n, double divisor, double* x) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = x[i] / -divisor;
}

// b = -L^-1 b. Rows that are done hold the negated solution, so products are added.
void forward_block(std::int64_t width, Matrix<double> l, Matrix<double> b, std::int64_t cols) {
  if (width > kNarrow) {
    const std::int64_t half = width / 2;
    forward_block(half, l, b, cols);
    matrix_product({width - half, cols, half, false, false, 1}, reading(moved(l, half, 0)),
                   reading(b), moved(b, half, 0));
    forward_block(width - half, moved(l, half, half), moved(b, half, 0), cols);
    return;
  }
  for (std::int64_t r = 0; r < width; ++r) {
    double* row = b.data + r * b.stride;
    for (std::int64_t p = 0; p < r; ++p)
      add_multiple(cols, l.data[r * l.stride + p], b.data + p * b.stride, row);
    divide_negated(cols, l.data[r * l.stride + r], row);
  }
}

// b = -L^-T b, in the same manner from the last row on.
void backward_block(std::int64_t width, Matrix<double> l, Matrix<double> b, std::int64_t cols) {
  if (width > kNarrow) {
    const std::int64_t half = width / 2;
    backward_block(width - half, moved(l, half, half), moved(b, half, 0), cols);
    matrix_product({half, cols, width - half, true, false, 1}, reading(moved(l, half, 0)),
                   reading(moved(b, half, 0)), b);
    backward_block(half, l, b, cols);
    return;
  }
  for (std::int64_t r = width; r-- > 0;) {
    double* row = b.data + r * b.stride;
    for (std::int64_t p = r + 1; p < width; ++p)
      add_multiple(cols, l.data[p * l.stride + r], b.data + p * b.stride, row);
    divide_negated(cols, l.data[r * l.stride + r], row);
  }
}

}  // namespace

Cholesky::Cholesky(const LowerMatrix& a, double ridge) : factor_(a.size()) {
  const std::int64_t n = a.size();
  double trace = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    MOE_CHECK(std::isfinite(a.diagonal(j)), "column ", j, " of a Gram matrix is not finite");
    trace += a.diagonal(j);
  }
  const double mean = trace > 0 ? trace / double(n) : 1;
  const double rounding = double(n) * std::numeric_limits<double>::epsilon();
  for (double share = 0;; share = share == 0 ? kJitter * rounding : 10 * share) {
    MOE_CHECK(share < 10,
              "no factor of a Gram matrix after a jitter of its whole diagonal: column ",
              dependent_, " is not finite below it");
    jitter_ = share * mean;
    shift_ = ridge * mean + jitter_;
    factor_.values().copy_from(a.values());
    std::vector<double> least(std::size_t(n), 0);
    for (std::int64_t j = 0; j < n; ++j) {
      factor_.diagonal(j) += shift_;
      least[std::size_t(j)] = rounding * factor_.diagonal(j);
    }
    const std::int64_t failed = factor(factor_, least);
    if (failed == n) return;
    if (dependent_ < 0) dependent_ = failed;
  }
}

void Cholesky::forward(Matrix<double> b, std::int64_t cols) const {
  for (std::int64_t i = 0; i < factor_.panels(); ++i) {
    const std::int64_t first = factor_.first(i), rows = factor_.rows(i);
    matrix_product({rows, cols, first, false, false, 1}, reading(factor_.at(i, 0, 0)), reading(b),
                   moved(b, first, 0));
    forward_block(rows, factor_.at(i, 0, first), moved(b, first, 0), cols);
  }
}

void Cholesky::backward(Matrix<double> b, std::int64_t cols) const {
  for (std::int64_t i = factor_.panels(); i-- > 0;) {
    const std::int64_t first = factor_.first(i);
    for (std::int64_t j = i + 1; j < factor_.panels(); ++j)
      matrix_product({factor_.rows(i), cols, factor_.rows(j), true, false, 1},
                     reading(factor_.at(j, 0, first)), reading(moved(b, factor_.first(j), 0)),
                     moved(b, first, 0));
    backward_block(factor_.rows(i), factor_.at(i, 0, first), moved(b, first, 0), cols);
  }
}

}  // namespace moe
