// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "split/lower_matrix.h"

namespace moe {

/// Consecutive columns of a matrix X [rows, columns] that are zero outside of some rows.
struct ColumnBlock {
  std::int64_t first = 0;          // column of X
  Tensor values;                   // f32 [rows.size(), columns of the block]
  std::vector<std::int64_t> rows;  // ascending, of X
};

/// gram += X^T X, for the lower triangle, in f64 from exact products, adding tokens in order: the
/// same bits on any number of threads, and however rows are cut into calls. Two blocks cost their
/// common rows alone. The blocks follow each other, so that block b begins where b - 1 ends.
void add_gram(const LowerMatrix& gram, std::span<const ColumnBlock> x);

/// moments += X^T Y. y: f32 [rows, outputs]; moments: f64 [columns, outputs].
void add_moments(const Tensor& moments, std::span<const ColumnBlock> x, const Tensor& y);

/// 0, 1, ... count - 1: the rows of a block without zeros.
std::vector<std::int64_t> all_rows(std::int64_t count);

}  // namespace moe
