// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor.h"

namespace moe::ops {

/// The value of a one-element f32 or f64 tensor, on any device.
double scalar_value(const Tensor& x);

/// x *= the value of `factor`, and x.
Tensor scaled_by(Tensor x, const Tensor& factor);

}  // namespace moe::ops
