// SPDX-License-Identifier: Apache-2.0
#include "ops/elementwise.h"

#include "kernels/backend.h"

namespace moe::ops {

Variable add(const Variable& a, const Variable& b) {
  MOE_CHECK(a.value.shape() == b.value.shape(), "add: ", join(a.value.shape()), " and ",
            join(b.value.shape()));
  Tensor y = empty_like(a.value);
  backend(y.device()).add(y, a.value, b.value);
  return record("add", {a, b}, y, [](std::span<const Tensor> dy) {
    return std::vector<Tensor>{dy[0], dy[0]};
  });
}

Variable add_row(const Variable& x, const Variable& row) {
  const Tensor& xv = x.value;
  MOE_CHECK(row.value.size() == xv.cols(), "add_row: ", join(row.value.shape()), " to ",
            join(xv.shape()));
  Backend& device = backend(xv.device());
  Tensor rows = empty_like(xv), one = Tensor::empty({1, xv.cols()}, xv.dtype(), xv.device());
  device.cast(one, row.value.view({1, xv.cols()}));
  device.segment_broadcast(rows, one, {});
  Tensor y = empty_like(xv);
  device.add(y, xv, rows);
  return record("add_row", {x, row}, y,
                [&device, shape = row.value.shape()](std::span<const Tensor> dy) {
                  const Tensor& g = dy[0];
                  Tensor sum = Tensor::empty({1, g.cols()}, g.dtype(), g.device());
                  device.segment_sum(sum, g, {});
                  return std::vector<Tensor>{g, sum.view(shape)};
                });
}

Variable multiply_add(const Variable& a, const Variable& b, const Tensor& c) {
  MOE_CHECK(a.value.shape() == b.value.shape() && a.value.shape() == c.shape(),
            "multiply_add: ", join(a.value.shape()), ", ", join(b.value.shape()), " and ",
            join(c.shape()));
  Tensor y = empty_like(a.value);
  Backend& device = backend(y.device());
  device.multiply_add(y, a.value, b.value, c);
  return record("multiply_add", {a, b}, y, [&device, c](std::span<const Tensor> dy) {
    Tensor db = empty_like(c);
    device.multiply(db, dy[0], c);
    return std::vector<Tensor>{dy[0], db};
  });
}

Variable scale(const Variable& x, double factor) {
  if (factor == 1) return x;
  Tensor y = x.value.clone();
  Backend& device = backend(y.device());
  device.scale(y, factor);
  return record("scale", {x}, y, [&device, factor](std::span<const Tensor> dy) {
    Tensor dx = dy[0].clone();
    device.scale(dx, factor);
    return std::vector<Tensor>{dx};
  });
}

Variable tanh(const Variable& x) {
  Tensor y = empty_like(x.value);
  Backend& device = backend(y.device());
  device.tanh_forward(y, x.value);
  return record("tanh", {x}, y, [&device, y](std::span<const Tensor> dy) {
    Tensor dx = empty_like(y);
    device.tanh_backward(dx, dy[0], y);
    return std::vector<Tensor>{dx};
  });
}

Variable softplus(const Variable& x, double offset) {
  Tensor y = empty_like(x.value);
  Backend& device = backend(y.device());
  device.softplus_forward(y, x.value, offset);
  return record("softplus", {x}, y, [&device, xv = x.value](std::span<const Tensor> dy) {
    Tensor dx = empty_like(xv);
    device.softplus_backward(dx, dy[0], xv);
    return std::vector<Tensor>{dx};
  });
}

}  // namespace moe::ops
