// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/vectorize.h"

namespace moe {

void CpuBackend::adamw(Tensor& weight, Tensor& master, Tensor& m, Tensor& v, const Tensor& gradient,
                       const AdamWStep& step) {
  for_float(weight.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    T* pw = weight.data<T>();
    A *pmaster = master.data<A>(), *pm = m.data<A>(), *pv = v.data<A>();
    const A* pg = gradient.data<A>();
    const A beta1 = A(step.beta1), rest1 = A(1 - step.beta1), beta2 = A(step.beta2),
            rest2 = A(1 - step.beta2), scale = A(step.gradient_scale),
            unbias1 = A(1 / step.correction1), unbias2 = A(1 / step.correction2), eps = A(step.eps),
            rate = A(step.learning_rate), decay = A(step.weight_decay);
    each_parallel(weight.size(), [=](std::int64_t i) {
      const A g = pg[i] * scale, w = pmaster[i];
      const A mean = beta1 * pm[i] + rest1 * g, square = beta2 * pv[i] + rest2 * g * g;
      const A updated =
          w - rate * (mean * unbias1 / (std::sqrt(square * unbias2) + eps) + decay * w);
      pm[i] = mean;
      pv[i] = square;
      pmaster[i] = updated;
      pw[i] = T(updated);
    });
  });
}

}  // namespace moe
