// SPDX-License-Identifier: Apache-2.0
#include "ops/norm.h"

#include "autograd/recipe.h"
#include "kernels/backend.h"

namespace moe::ops {

Variable rmsnorm(const Variable& x, const Variable& weight, double eps, bool remake) {
  const Tensor xv = x.value, w = weight.value;
  MOE_CHECK(w.size() == xv.cols(), "rmsnorm: ", w.size(), " weights for ", xv.cols(), " columns");
  Backend& device = backend(xv.device());
  Tensor y = empty_like(xv);
  Tensor rstd = Tensor::empty({xv.rows()}, accumulator(xv.dtype()), xv.device());
  device.rmsnorm_forward(y, rstd, xv, w, eps);

  Variable result =
      record("rmsnorm", {x, weight}, y, [&device, xv, w, rstd](std::span<const Tensor> dy) {
        Tensor dx = empty_like(xv);
        Tensor dw = Tensor::empty(w.shape(), accumulator(w.dtype()), w.device());
        device.rmsnorm_backward(dx, dw, dy[0], xv, w, rstd);
        return std::vector<Tensor>{dx, dw};
      });
  if (remake && result.wants_gradient())
    result.recipe = std::make_shared<Recipe>([&device, xv, w, eps] {
      Tensor again = empty_like(xv);
      Tensor unused = Tensor::empty({xv.rows()}, accumulator(xv.dtype()), xv.device());
      device.rmsnorm_forward(again, unused, xv, w, eps);
      return again;
    });
  return result;
}

}  // namespace moe::ops
