// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor.h"

namespace moe::ops {

/// x *= factor[0], without waiting for a device; returns x. factor: one f32 or f64.
Tensor scaled_by(Tensor x, const Tensor& factor);

}  // namespace moe::ops
