// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace moe {

/// For each token the sum over the columns of each group: f32 [rows of x, groups]. x: f32 [rows,
/// columns]; labels: a column's group, those of `groups` and more are left out.
Tensor sums_by_group(const Tensor& x, const std::vector<std::int32_t>& labels, std::int64_t groups);

}  // namespace moe
