// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/tensor.h"

namespace moe {

/// Index of the first NaN or infinity among `count` values of type f32, bf16, f16 or f64 at any
/// alignment; -1: all are finite. On all compute threads.
std::int64_t first_not_finite(const std::byte* values, DType dtype, std::int64_t count);

/// Throws InputError, starting with `what` and naming the row, when a CPU tensor holds a NaN or an
/// infinity.
void require_finite(const Tensor& t, const std::string& what);

}  // namespace moe
