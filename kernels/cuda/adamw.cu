// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/vector.h"

namespace moe {
namespace {

// AdamWStep in the type that it is computed in.
template <class A>
struct Rates {
  A scale, beta1, rest1, beta2, rest2, unbias1, unbias2, eps, rate, decay;
};

// Bytes: gradient read; master, m and v read and written; weight written, unless it is master. No
// pointer is restricted: weight may be master.
template <class T>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(std::int64_t size, bool whole, Rates<Acc<T>> step, T* weight, Acc<T>* master,
                 Acc<T>* m, Acc<T>* v, const Acc<T>* gradient) {
  using A = Acc<T>;
  constexpr int n = 16 / sizeof(A);
  const bool copy = static_cast<void*>(weight) != static_cast<void*>(master);
  for (std::int64_t i = grid_thread() * n; i < size; i += grid_threads() * n) {
    const std::int64_t left = size - i;
    const Vector<A, n> gradients = load<n>(gradient + i, left, whole);
    Vector<A, n> masters = load<n>(master + i, left, whole), means = load<n>(m + i, left, whole),
                 squares = load<n>(v + i, left, whole);
    Vector<T, n> weights;
#pragma unroll
    for (int j = 0; j < n; ++j) {
      const A g = gradients.at[j] * step.scale, w = masters.at[j];
      const A mean = step.beta1 * means.at[j] + step.rest1 * g;
      const A square = step.beta2 * squares.at[j] + step.rest2 * g * g;
      const A updated =
          w - step.rate *
                  (mean * step.unbias1 / (sqrt(square * step.unbias2) + step.eps) + step.decay * w);
      means.at[j] = mean;
      squares.at[j] = square;
      masters.at[j] = updated;
      weights.at[j] = narrow<T>(updated);
    }
    store(m + i, means, left, whole);
    store(v + i, squares, left, whole);
    store(master + i, masters, left, whole);
    if (copy) store(weight + i, weights, left, whole);
  }
}

}  // namespace

void CudaBackend::adamw(Tensor& weight, Tensor& master, Tensor& m, Tensor& v,
                        const Tensor& gradient, const AdamWStep& step) {
  if (weight.size() == 0) return;
  for_float(weight.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    const Rates<A> rates = {A(step.gradient_scale),  A(step.beta1),     A(1 - step.beta1),
                            A(step.beta2),           A(1 - step.beta2), A(1 / step.correction1),
                            A(1 / step.correction2), A(step.eps),       A(step.learning_rate),
                            A(step.weight_decay)};
    T* pw = weight.data<T>();
    A *pmaster = master.data<A>(), *pm = m.data<A>(), *pv = v.data<A>();
    const A* pg = gradient.data<A>();
    launch(adamw_kernel<T>, blocks_for(ceil_div(weight.size(), kWidth<A>)), kThreads, 0, stream_,
           weight.size(), aligned(pw, pmaster, pm, pv, pg), rates, pw, pmaster, pm, pv, pg);
  });
}

}  // namespace moe
