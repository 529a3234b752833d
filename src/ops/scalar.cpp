// SPDX-License-Identifier: Apache-2.0
#include "ops/scalar.h"

#include "kernels/backend.h"

namespace moe::ops {

double scalar_value(const Tensor& x) {
  MOE_CHECK(x.size() == 1, "expected one element, got ", x.size());
  const Tensor host = x.to(Device::cpu);
  double value = 0;
  for_accumulator(host.dtype(), [&]<class A>(A) { value = double(*host.data<A>()); });
  return value;
}

Tensor scaled_by(Tensor x, const Tensor& factor) {
  const double value = scalar_value(factor);
  if (value != 1) backend(x.device()).scale(x, value);
  return x;
}

}  // namespace moe::ops
