// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace moe {

/// For each token the sum over the columns of each group: f32 [rows of x, groups]. x: f32 [rows,
/// columns]; labels: a column's group, those of `groups` and more are left out.
Tensor sums_by_group(const Tensor& x, const std::vector<std::int32_t>& labels, std::int64_t groups);

/// For each expert the sum over the tokens that chose it: f64 [experts, columns of x], up to the
/// rounding of f32 within 128 tokens. x: f32 [rows, columns]; chosen: i32 [rows, k].
Tensor sums_by_choice(const Tensor& x, const Tensor& chosen, std::int64_t experts);

}  // namespace moe
