// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"

namespace moe::ops {

/// y = x w^T. x: T[rows, in]; w: [out, in]; y: `out`[rows, out], T or accumulator(T). A weight of
/// another type than x is converted first. The weight's gradient is accumulator(w).
Variable linear(const Variable& x, const Variable& w, DType out);

/// The same with y in x's type.
Variable linear(const Variable& x, const Variable& w);

}  // namespace moe::ops
