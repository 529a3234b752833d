// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"

namespace moe::ops {

/// Root-mean-square norm over the last dimension (Zhang & Sennrich 2019). x: [rows, cols];
/// weight: [cols].
Variable rmsnorm(const Variable& x, const Variable& weight, double eps);

}  // namespace moe::ops
