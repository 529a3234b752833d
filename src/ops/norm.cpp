// SPDX-License-Identifier: Apache-2.0
#include "ops/norm.h"

#include "kernels/backend.h"

namespace moe::ops {

Variable rmsnorm(const Variable& x, const Variable& weight, double eps) {
  const Tensor xv = x.value, w = weight.value;
  MOE_CHECK(w.size() == xv.cols(), "rmsnorm: ", w.size(), " weights for ", xv.cols(), " columns");
  Backend& device = backend(xv.device());
  Tensor y = empty_like(xv);
  Tensor rstd = Tensor::empty({xv.rows()}, accumulator(xv.dtype()), xv.device());
  device.rmsnorm_forward(y, rstd, xv, w, eps);

  return record("rmsnorm", {x, weight}, y, [&device, xv, w, rstd](std::span<const Tensor> dy) {
    Tensor dx = empty_like(xv);
    Tensor dw = Tensor::empty(w.shape(), accumulator(w.dtype()), w.device());
    device.rmsnorm_backward(dx, dw, dy[0], xv, w, rstd);
    return std::vector<Tensor>{dx, dw};
  });
}

}  // namespace moe::ops
