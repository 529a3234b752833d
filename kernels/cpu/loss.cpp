// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/vectorize.h"

namespace moe {

void CpuBackend::cross_entropy(Tensor& loss, Tensor& logits, const Tensor& labels,
                               double gradient_scale) {
  const std::int64_t rows = logits.rows(), cols = logits.cols();
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    A *ploss = loss.data<A>(), *px = logits.data<A>();
    const std::int32_t* label = labels.data<std::int32_t>();
    parallel_for(rows, row_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        A* x = px + i * cols;
        if (label[i] < 0) {
          ploss[i] = 0;
          if (gradient_scale != 0) std::fill_n(x, cols, A(0));
          continue;
        }
        const A largest = max_of(x, cols), target = x[label[i]];
        double sum;
        if (gradient_scale == 0) {
          sum = sum_of(0, cols, [=](std::int64_t j) { return exp_of(x[j] - largest); });
        } else {
          sum = sum_of(0, cols, [=](std::int64_t j) { return x[j] = exp_of(x[j] - largest); });
          const A factor = A(gradient_scale / sum);
          each(0, cols, [=](std::int64_t j) { x[j] *= factor; });
          x[label[i]] -= A(gradient_scale);
        }
        ploss[i] = A(std::log(sum) + (double(largest) - double(target)));
      }
    });
  });
}

}  // namespace moe
