// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cpu/matrix_product.h"

namespace moe {

inline constexpr std::int64_t kFewRows = 4;

/// Whether few_rows_product() is the way to compute a product: a has so few rows, untransposed,
/// that reading b is what takes the time, as for the next token of a text.
inline bool has_few_rows(const Product& p) { return !p.transpose_a && p.m <= kFewRows; }

/// matrix_product() for those: reads b once, row by row, and sums in f32. The order of a sum
/// depends on p alone. Runs on all compute threads. k > 0; c is rounded once. (oneDNN's sgemm does
/// so by itself; its bf16 products pad the rows to sixteen and rearrange b.)
void few_rows_product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b,
                      Matrix<float> c);
void few_rows_product(const Product& p, Matrix<const bf16> a, Matrix<const bf16> b, Matrix<bf16> c);

}  // namespace moe
