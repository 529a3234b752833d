// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "core/tensor.h"

namespace moe {

/// out[i] = summands[0][i] + summands[1][i] + ..., from left to right, kept in f32 for bf16. The
/// summands share a type (f32, bf16, f64, i64) and out's size; out has their type, or f32 for bf16,
/// and may be one of them.
void sum_in_order(const Tensor& out, std::span<const Tensor> summands);

}  // namespace moe
