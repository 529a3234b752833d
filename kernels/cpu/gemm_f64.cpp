// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/vectorize.h"

namespace moe {
namespace {

// A tile of c is one task. For kDepth terms of its sums at a time, op(b) is packed in strips of
// kCols columns, which stay in the L2 cache while the tile's rows pass over them, kRows at once.
constexpr std::int64_t kRows = 8, kCols = 24, kDepth = 256, kTile = 288, kGroup = 96;

/// Lanes of one register that may lie anywhere.
template <int Lanes>
struct Vector {
  using Type
      __attribute__((vector_size(Lanes * sizeof(double)), aligned(sizeof(double)), may_alias)) =
          double;
};

// x(line, p) = data[line * across + p * along], whichever way a matrix is stored: lines are rows of
// op(a) or columns of op(b), p counts the terms of a sum.
struct Lines {
  const double* data;
  std::int64_t across, along;
  Lines from(std::int64_t line, std::int64_t p) const {
    return {data + line * across + p * along, across, along};
  }
};

// c[kRows, kCols] += a b for packed b [depth, kCols], Rows x (Lanes * Vectors) elements at a time:
// as many sums as the registers hold beside a row of b.
template <int Lanes, int Rows, int Vectors>
MOE_INLINE void add_block(std::int64_t depth, const Lines& a, const double* b, Matrix<double> c) {
  using Lane = typename Vector<Lanes>::Type;
  for (std::int64_t i = 0; i < kRows; i += Rows)
    for (std::int64_t j = 0; j < kCols; j += Lanes * Vectors) {
      const double* factors = a.data + i * a.across;
      double* corner = c.data + i * c.stride + j;
      Lane sums[Rows][Vectors];
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v)
          sums[r][v] = *reinterpret_cast<Lane*>(corner + r * c.stride + v * Lanes);
      for (std::int64_t p = 0; p < depth; ++p) {
        Lane row[Vectors];
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v)
          row[v] = *reinterpret_cast<const Lane*>(b + p * kCols + j + v * Lanes);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
          for (int v = 0; v < Vectors; ++v)
            sums[r][v] += factors[r * a.across + p * a.along] * row[v];
      }
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v)
          *reinterpret_cast<Lane*>(corner + r * c.stride + v * Lanes) = sums[r][v];
    }
}

#ifdef MOE_VERSION
MOE_VERSION("arch=x86-64-v4")
void add_strip(std::int64_t depth, const Lines& a, const double* b, Matrix<double> c) {
  add_block<8, 8, 3>(depth, a, b, c);
}
MOE_VERSION("arch=x86-64-v3")
void add_strip(std::int64_t depth, const Lines& a, const double* b, Matrix<double> c) {
  add_block<4, 4, 3>(depth, a, b, c);
}
MOE_VERSION("default")
#endif
void add_strip(std::int64_t depth, const Lines& a, const double* b, Matrix<double> c) {
  add_block<2, 4, 3>(depth, a, b, c);
}

// The same for height x width elements of c, of which no others exist.
void add_corner(std::int64_t depth, const Lines& a, const double* b, Matrix<double> c,
                std::int64_t height, std::int64_t width) {
  if (height == kRows && width == kCols) return add_strip(depth, a, b, c);
  double whole[kRows * kCols] = {};
  for (std::int64_t r = 0; r < height; ++r)
    std::copy_n(c.data + r * c.stride, width, whole + r * kCols);
  add_strip(depth, a, b, {whole, kCols});
  for (std::int64_t r = 0; r < height; ++r)
    std::copy_n(whole + r * kCols, width, c.data + r * c.stride);
}

// Strips of Width lines, one after the other: to[strip][p][Width] = `count` lines from x on. Lines
// that the last strip lacks make elements of c that do not exist, so they may be anything.
template <std::int64_t Width>
void pack(const Lines& x, std::int64_t count, std::int64_t depth, double* to) {
  const std::int64_t whole = count / Width * Width;
  if (x.across != 1) {
    for (std::int64_t line = 0; line < count; ++line) {
      double* strip = to + line / Width * Width * depth + line % Width;
      for (std::int64_t p = 0; p < depth; ++p)
        strip[p * Width] = x.data[line * x.across + p * x.along];
    }
    return;
  }
  for (std::int64_t p = 0; p < depth; ++p) {
    const double* from = x.data + p * x.along;
    for (std::int64_t line = 0; line < whole; line += Width)
      std::memcpy(to + line * depth + p * Width, from + line, Width * sizeof(double));
    for (std::int64_t line = whole; line < count; ++line)
      to[whole * depth + p * Width + line - whole] = from[line];
  }
}

void product_tile(const Product& p, const Lines& a, const Lines& b, Matrix<double> c,
                  std::int64_t rows, std::int64_t cols) {
  if (p.beta == 0)
    for (std::int64_t i = 0; i < rows; ++i) std::fill_n(c.data + i * c.stride, cols, 0.0);
  thread_local std::vector<double> strips(std::size_t(kDepth * kTile));
  thread_local std::vector<double> packed(std::size_t(kDepth * kGroup));
  for (std::int64_t k = 0; k < p.k; k += kDepth) {
    const std::int64_t depth = std::min(kDepth, p.k - k);
    pack<kCols>(b.from(0, k), cols, depth, strips.data());
    for (std::int64_t first = 0; first < rows; first += kGroup) {
      const std::int64_t group = std::min(kGroup, rows - first);
      // Lines that lie across the memory are far apart term by term, and lines beyond the last do
      // not exist.
      const bool packs = a.along != 1 || group % kRows != 0;
      if (packs) pack<kRows>(a.from(first, k), group, depth, packed.data());
      for (std::int64_t i = 0; i < group; i += kRows) {
        const Lines lines =
            packs ? Lines{packed.data() + i * depth, 1, kRows} : a.from(first + i, k);
        const std::int64_t height = std::min(kRows, group - i);
        for (std::int64_t j = 0; j < cols; j += kCols)
          add_corner(depth, lines, strips.data() + j * depth,
                     {c.data + (first + i) * c.stride + j, c.stride}, height,
                     std::min(kCols, cols - j));
      }
    }
  }
}

}  // namespace

void matrix_product(const Product& p, Matrix<const double> a, Matrix<const double> b,
                    Matrix<double> c) {
  const Lines rows = {a.data, p.transpose_a ? 1 : a.stride, p.transpose_a ? a.stride : 1};
  const Lines cols = {b.data, p.transpose_b ? b.stride : 1, p.transpose_b ? 1 : b.stride};
  const auto tiles = [](std::int64_t n, std::int64_t side) { return (n + side - 1) / side; };
  // Small products are not worth waking threads for; others get smaller tiles rather than leave
  // threads idle.
  const std::int64_t threads = p.m * p.n * p.k < 1'000'000 ? 1 : compute_threads();
  std::int64_t side = kTile;
  while (threads > 1 && side > kTile / 4 && tiles(p.m, side) * tiles(p.n, side) < 2 * threads)
    side /= 2;
  const std::int64_t across = tiles(p.n, side), count = tiles(p.m, side) * across;
  const std::int64_t grain = threads > 1 ? 1 : std::max<std::int64_t>(1, count);
  parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t i = t / across * side, j = t % across * side;
      product_tile(p, rows.from(i, 0), cols.from(j, 0), {c.data + i * c.stride + j, c.stride},
                   std::min(side, p.m - i), std::min(side, p.n - j));
    }
  });
}

}  // namespace moe
