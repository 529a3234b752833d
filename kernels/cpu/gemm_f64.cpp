// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/vectorize.h"

namespace moe {
namespace {

// A tile of c is one task; a panel of b, kDepth rows of the tile's columns, stays in the L2 cache
// while the tile's rows pass over it.
constexpr std::int64_t kTileRows = 64, kTileCols = 128, kDepth = 64;

// c[r, :] += sum over p of a[r, p] b[p, :] for four rows r and four p, ascending. Each element is
// loaded and stored once for four multiply-adds.
MOE_VECTORIZE void add_four_by_four(std::int64_t cols, const double (&a)[4][4],
                                    const double* __restrict b, std::int64_t b_stride,
                                    double* __restrict c, std::int64_t c_stride) {
  const double *b0 = b, *b1 = b + b_stride, *b2 = b1 + b_stride, *b3 = b2 + b_stride;
  double *c0 = c, *c1 = c + c_stride, *c2 = c1 + c_stride, *c3 = c2 + c_stride;
#pragma GCC ivdep
  for (std::int64_t j = 0; j < cols; ++j) {
    c0[j] = (((c0[j] + a[0][0] * b0[j]) + a[0][1] * b1[j]) + a[0][2] * b2[j]) + a[0][3] * b3[j];
    c1[j] = (((c1[j] + a[1][0] * b0[j]) + a[1][1] * b1[j]) + a[1][2] * b2[j]) + a[1][3] * b3[j];
    c2[j] = (((c2[j] + a[2][0] * b0[j]) + a[2][1] * b1[j]) + a[2][2] * b2[j]) + a[2][3] * b3[j];
    c3[j] = (((c3[j] + a[3][0] * b0[j]) + a[3][1] * b1[j]) + a[3][2] * b2[j]) + a[3][3] * b3[j];
  }
}

// The same for one row and one p.
MOE_VECTORIZE void add_one(std::int64_t cols, double a, const double* __restrict b,
                           double* __restrict c) {
#pragma GCC ivdep
  for (std::int64_t j = 0; j < cols; ++j) c[j] = c[j] + a * b[j];
}

// a(i, p) = data[i * row + p * col], whichever way a is stored.
struct Strided {
  const double* data;
  std::int64_t row, col;
  double operator()(std::int64_t i, std::int64_t p) const { return data[i * row + p * col]; }
};

// c += a b for a panel: rows x depth times depth x cols.
void add_panel(std::int64_t rows, std::int64_t cols, std::int64_t depth, const Strided& a,
               Matrix<const double> b, Matrix<double> c) {
  for (std::int64_t i = 0; i < rows; i += 4) {
    const std::int64_t height = std::min<std::int64_t>(4, rows - i);
    double* row = c.data + i * c.stride;
    std::int64_t p = 0;
    if (height == 4) {
      for (; p + 4 <= depth; p += 4) {
        double block[4][4];
        for (int r = 0; r < 4; ++r)
          for (int q = 0; q < 4; ++q) block[r][q] = a(i + r, p + q);
        add_four_by_four(cols, block, b.data + p * b.stride, b.stride, row, c.stride);
      }
    }
    for (; p < depth; ++p)
      for (std::int64_t r = 0; r < height; ++r)
        add_one(cols, a(i + r, p), b.data + p * b.stride, row + r * c.stride);
  }
}

void product_tile(const Product& p, const Strided& a, Matrix<const double> b, Matrix<double> c,
                  std::int64_t first_row, std::int64_t first_col) {
  const std::int64_t rows = std::min(kTileRows, p.m - first_row);
  const std::int64_t cols = std::min(kTileCols, p.n - first_col);
  const Matrix<double> tile = {c.data + first_row * c.stride + first_col, c.stride};
  if (p.beta == 0)
    for (std::int64_t i = 0; i < rows; ++i) std::fill_n(tile.data + i * tile.stride, cols, 0.0);
  thread_local std::vector<double> transposed;
  if (p.transpose_b) transposed.resize(std::size_t(kDepth * kTileCols));
  for (std::int64_t k = 0; k < p.k; k += kDepth) {
    const std::int64_t depth = std::min(kDepth, p.k - k);
    Matrix<const double> panel = {b.data + k * b.stride + first_col, b.stride};
    if (p.transpose_b) {
      for (std::int64_t j = 0; j < cols; ++j) {
        const double* from = b.data + (first_col + j) * b.stride + k;
        for (std::int64_t q = 0; q < depth; ++q)
          transposed[std::size_t(q * kTileCols + j)] = from[q];
      }
      panel = {transposed.data(), kTileCols};
    }
    const Strided a_panel = {&a.data[first_row * a.row + k * a.col], a.row, a.col};
    add_panel(rows, cols, depth, a_panel, panel, tile);
  }
}

}  // namespace

void matrix_product(const Product& p, Matrix<const double> a, Matrix<const double> b,
                    Matrix<double> c) {
  const Strided strided = {a.data, p.transpose_a ? 1 : a.stride, p.transpose_a ? a.stride : 1};
  const std::int64_t tile_rows = (p.m + kTileRows - 1) / kTileRows;
  const std::int64_t tile_cols = (p.n + kTileCols - 1) / kTileCols;
  const std::int64_t tiles = tile_rows * tile_cols;
  // Small products are not worth waking threads for.
  const std::int64_t grain = p.m * p.n * p.k < 100'000 ? std::max<std::int64_t>(tiles, 1) : 1;
  parallel_for(tiles, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      product_tile(p, strided, b, c, t / tile_cols * kTileRows, t % tile_cols * kTileCols);
  });
}

}  // namespace moe
