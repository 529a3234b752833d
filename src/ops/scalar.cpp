// SPDX-License-Identifier: Apache-2.0
#include "ops/scalar.h"

#include "kernels/backend.h"

namespace moe::ops {

Tensor scaled_by(Tensor x, const Tensor& factor) {
  MOE_CHECK(factor.size() == 1, "expected one element, got ", factor.size());
  backend(x.device()).scale_by(x, factor);
  return x;
}

}  // namespace moe::ops
