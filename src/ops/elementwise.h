// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"

namespace moe::ops {

/// a + b, of one shape and type.
Variable add(const Variable& a, const Variable& b);
/// x[i,:] + row. x: acc[rows, cols]; row: [cols], converted to x's type where it has another.
Variable add_row(const Variable& x, const Variable& row);
/// a + b * c; c is a constant.
Variable multiply_add(const Variable& a, const Variable& b, const Tensor& c);
/// factor * x
Variable scale(const Variable& x, double factor);
Variable tanh(const Variable& x);
/// log(1 + exp(x)) + offset
Variable softplus(const Variable& x, double offset);

}  // namespace moe::ops
