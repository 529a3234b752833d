// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/vectorize.h"

namespace moe {

// The softmax of attention, one tile of scores at a time (Dao et al. 2022). A is the type of sums.

/// Score rows are read up to a whole vector, which saves the loop over the rest; the rows' stride
/// is a multiple of that.
constexpr std::int64_t kLanes = 16;
MOE_INLINE std::int64_t whole_lanes(std::int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

/// A tile of scores: rows of queries by columns of keys, of which each row sees a span.
struct Tile {
  std::int64_t rows, cols;
  const std::int32_t *begins, *ends;  // row r sees the keys [begins[r], ends[r])
  std::int64_t key;                   // of column 0, counted as they are

  /// Row r sees the columns [begin, end), which lie in [first, padded), whole lanes.
  struct Span {
    std::int64_t begin, end, first, padded;
  };
  MOE_INLINE Span seen_by(std::int64_t r) const {
    const std::int64_t end = std::clamp<std::int64_t>(ends[r] - key, 0, cols);
    const std::int64_t begin = std::clamp<std::int64_t>(begins[r] - key, 0, end);
    return {begin, end, begin / kLanes * kLanes, whole_lanes(end)};
  }
};

/// The columns of a row that share lanes with those it sees.
template <class A>
MOE_INLINE void fill_unseen_lanes(A* row, const Tile::Span& seen, A value) {
  for (std::int64_t j = seen.first; j < seen.begin; ++j) row[j] = value;
  for (std::int64_t j = seen.end; j < seen.padded; ++j) row[j] = value;
}

template <class A>
MOE_INLINE void clear_unseen(A* row, const Tile::Span& seen, std::int64_t cols) {
  std::fill(row, row + seen.begin, A(0));
  std::fill(row + seen.end, row + cols, A(0));
}

/// One step of the online softmax over a tile of scores: they become exp(scale * score - row_max),
/// row_max, row_sum and the weighted values summed so far (out, [rows, head_dim]) move to the new
/// maximum. They begin at -infinity, 0 and 0.
template <class A>
MOE_VECTORIZE static void softmax_tile(Matrix<A> scores, const Tile& tile, A scale, A* row_max,
                                       A* row_sum, Matrix<A> out, std::int64_t head_dim) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    A* __restrict s = scores.data + r * scores.stride;
    const Tile::Span seen = tile.seen_by(r);
    if (seen.begin == seen.end) {
      std::fill_n(s, tile.cols, A(0));
      continue;
    }
    // Not seen: e to the power of -infinity adds 0 to a sum that is 1 at least (in float what it
    // adds, e^-87, is rounded away), and is made 0 afterwards.
    fill_unseen_lanes(s, seen, -std::numeric_limits<A>::infinity());
    A largest = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : largest)
    for (std::int64_t j = seen.first; j < seen.padded; ++j)
      largest = s[j] > largest ? s[j] : largest;
    const A shift = std::max(row_max[r], scale * largest);
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = seen.first; j < seen.padded; ++j) {
      s[j] = exp_of_nonpositive(scale * s[j] - shift);
      sum += s[j];
    }
    clear_unseen(s, seen, tile.cols);
    const A correction = exp_of_nonpositive(row_max[r] - shift);
    row_sum[r] = row_sum[r] * correction + sum;
    if (correction != A(1)) {
      A* __restrict o = out.data + r * out.stride;
      for (std::int64_t d = 0; d < head_dim; ++d) o[d] *= correction;
    }
    row_max[r] = shift;
  }
}

/// Probabilities p = exp(scale * score - lse), written over the scores, and the gradients of the
/// unscaled scores, scale * p * (dp - delta), over dp.
template <class A>
MOE_VECTORIZE static void softmax_backward_tile(Matrix<A> scores, Matrix<A> dp, const Tile& tile,
                                                A scale, const A* lse, const A* delta) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    A* __restrict s = scores.data + r * scores.stride;
    A* __restrict ds = dp.data + r * dp.stride;
    const Tile::Span seen = tile.seen_by(r);
    const A shift = lse[r], mean = delta[r];
#pragma GCC ivdep
    for (std::int64_t j = seen.first; j < seen.padded; ++j) {
      const A p = exp_of_nonpositive(scale * s[j] - shift);
      ds[j] = scale * p * (ds[j] - mean);
      s[j] = p;
    }
    clear_unseen(s, seen, tile.cols);
    clear_unseen(ds, seen, tile.cols);
  }
}

template <class A>
MOE_VECTORIZE static void divide_rows(Matrix<A> out, std::int64_t rows, std::int64_t cols,
                                      const A* row_sum) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const A factor = A(1) / row_sum[r];
    for (std::int64_t d = 0; d < cols; ++d) out.data[r * out.stride + d] *= factor;
  }
}

/// sums[r] = <x[r, :], y[r, :]>
template <class A>
MOE_VECTORIZE static void row_dots(A* sums, Matrix<const A> x, Matrix<const A> y, std::int64_t rows,
                                   std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const A *a = x.data + r * x.stride, *b = y.data + r * y.stride;
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t d = 0; d < cols; ++d) sum += a[d] * b[d];
    sums[r] = sum;
  }
}

}  // namespace moe
