// SPDX-License-Identifier: Apache-2.0
#include "split/normal_sums.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "kernels/cpu/vectorize.h"

namespace moe {
namespace {

// Blocks are cut into pieces of at most this many columns, and a task takes this many rows at once.
constexpr std::int64_t kColumns = 512, kRows = 512;

/// Some columns of a block.
struct Piece {
  const ColumnBlock* block;
  std::int64_t from, width;  // within the block
  std::int64_t first() const { return block->first + from; }
};

std::vector<Piece> pieces_of(std::span<const ColumnBlock> blocks) {
  std::vector<Piece> pieces;
  for (const ColumnBlock& block : blocks) {
    MOE_CHECK(block.values.rows() == std::int64_t(block.rows.size()), block.values.rows(),
              " rows of values for ", block.rows.size(), " rows of the matrix");
    for (std::int64_t from = 0; from < block.values.cols(); from += kColumns)
      pieces.push_back({&block, from, std::min(kColumns, block.values.cols() - from)});
  }
  return pieces;
}

/// Places of the rows that two blocks have in common, in each.
struct CommonRows {
  std::vector<std::int64_t> a, b;
};

CommonRows common_rows(const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b) {
  CommonRows common;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    if (a[i] == b[j]) {
      common.a.push_back(std::int64_t(i));
      common.b.push_back(std::int64_t(j));
    }
    const bool next_a = a[i] <= b[j], next_b = b[j] <= a[i];
    i += next_a;
    j += next_b;
  }
  return common;
}

MOE_VECTORIZE void widen(const float* from, std::int64_t n, double* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = double(from[i]);
}

/// The rows of `x` at `places`, `cols` columns from `from` on, widened: [places, cols].
void gather(const Tensor& x, std::span<const std::int64_t> places, std::int64_t from,
            std::int64_t cols, std::vector<double>& to) {
  to.resize(places.size() * std::size_t(cols));
  double* out = to.data();
  for (const std::int64_t place : places) {
    widen(x.data<float>() + place * x.cols() + from, cols, out);
    out += cols;
  }
}

/// gram[a, b] += a^T b for two pieces, a not before b.
void add_pair(const LowerMatrix& gram, const Piece& a, const Piece& b) {
  const CommonRows common = common_rows(a.block->rows, b.block->rows);
  const std::int64_t tokens = std::int64_t(common.a.size());
  thread_local std::vector<double> left, right;
  for (std::int64_t t = 0; t < tokens; t += kRows) {
    const std::size_t begin = std::size_t(t), count = std::size_t(std::min(kRows, tokens - t));
    gather(a.block->values, std::span(common.a).subspan(begin, count), a.from, a.width, left);
    gather(b.block->values, std::span(common.b).subspan(begin, count), b.from, b.width, right);
    for (std::int64_t row = a.first(); row < a.first() + a.width;) {
      const std::int64_t panel = row / LowerMatrix::kPanel, start = gram.first(panel);
      const std::int64_t end = std::min(a.first() + a.width, start + gram.rows(panel));
      const std::int64_t cols = std::min(b.width, end - b.first());
      matrix_product({end - row, cols, std::int64_t(count), true, false, 1},
                     Matrix<const double>{left.data() + (row - a.first()), a.width},
                     Matrix<const double>{right.data(), b.width},
                     gram.at(panel, row - start, b.first()));
      row = end;
    }
  }
}

}  // namespace

std::vector<std::int64_t> all_rows(std::int64_t count) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), std::int64_t{0});
  return rows;
}

void add_gram(const LowerMatrix& gram, std::span<const ColumnBlock> x) {
  const std::vector<Piece> pieces = pieces_of(x);
  const std::int64_t count = std::int64_t(pieces.size());
  run_tasks(count * (count + 1) / 2, [&](std::int64_t task) {
    std::int64_t a = 0;
    while (task > a) task -= ++a;
    add_pair(gram, pieces[std::size_t(a)], pieces[std::size_t(task)]);
  });
}

void add_moments(const Tensor& moments, std::span<const ColumnBlock> x, const Tensor& y) {
  const std::vector<Piece> pieces = pieces_of(x);
  const std::int64_t outputs = y.cols(), strips = (outputs + kColumns - 1) / kColumns;
  run_tasks(std::int64_t(pieces.size()) * strips, [&](std::int64_t task) {
    const Piece& piece = pieces[std::size_t(task / strips)];
    const std::int64_t from = task % strips * kColumns, cols = std::min(kColumns, outputs - from);
    const std::vector<std::int64_t> places = all_rows(piece.block->values.rows());
    thread_local std::vector<double> left, right;
    for (std::size_t t = 0; t < places.size(); t += std::size_t(kRows)) {
      const std::size_t tokens = std::min(std::size_t(kRows), places.size() - t);
      gather(piece.block->values, std::span(places).subspan(t, tokens), piece.from, piece.width,
             left);
      gather(y, std::span(piece.block->rows).subspan(t, tokens), from, cols, right);
      matrix_product(
          {piece.width, cols, std::int64_t(tokens), true, false, 1},
          Matrix<const double>{left.data(), piece.width}, Matrix<const double>{right.data(), cols},
          Matrix<double>{moments.data<double>() + piece.first() * outputs + from, outputs});
    }
  });
}

}  // namespace moe
