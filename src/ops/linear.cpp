// SPDX-License-Identifier: Apache-2.0
#include "ops/linear.h"

#include "autograd/recipe.h"
#include "kernels/backend.h"

namespace moe::ops {
namespace {

Tensor as_type(Backend& device, const Tensor& x, DType type) {
  if (x.dtype() == type) return x;
  Tensor y = Tensor::empty(x.shape(), type, x.device());
  device.cast(y, x);
  return y;
}

}  // namespace

Variable linear(const Variable& x, const Variable& w, DType out) {
  const Tensor& xv = x.value;
  MOE_CHECK(w.value.cols() == xv.cols(), "linear: weight ", join(w.value.shape()), " for input ",
            join(xv.shape()));
  Backend& device = backend(xv.device());
  const Tensor wv = as_type(device, w.value, xv.dtype());
  Tensor y = Tensor::empty({xv.rows(), wv.rows()}, out, xv.device());
  device.gemm(y, xv, false, wv, true, 0);

  return record("linear", {x, w}, y,
                [&device, kept = Kept(x), wv, wants_dx = x.wants_gradient(),
                 wants_dw = w.wants_gradient()](std::span<const Tensor> grads) mutable {
                  const Tensor input = kept.take();
                  const Tensor dy = as_type(device, grads[0], input.dtype());
                  Tensor dx, dw;
                  if (wants_dx) {
                    dx = empty_like(input);
                    device.gemm(dx, dy, false, wv, false, 0);
                  }
                  if (wants_dw) {
                    dw = Tensor::empty(wv.shape(), accumulator(wv.dtype()), wv.device());
                    device.gemm(dw, dy, true, input, false, 0);
                  }
                  return std::vector<Tensor>{dx, dw};
                });
}

Variable linear(const Variable& x, const Variable& w) { return linear(x, w, x.value.dtype()); }

}  // namespace moe::ops
