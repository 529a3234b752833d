// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"

namespace moe::ops {

/// Root-mean-square norm over the last dimension (Zhang & Sennrich 2019). x: [rows, cols];
/// weight: [cols]. With `remake`, ops that use the result make it again in backward instead of
/// keeping it.
Variable rmsnorm(const Variable& x, const Variable& weight, double eps, bool remake = false);

}  // namespace moe::ops
