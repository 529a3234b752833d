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

void CpuBackend::distillation(Tensor& loss, Tensor& divergence, Tensor& logits,
                              const Tensor& teacher, const Tensor& labels,
                              const DistillationStep& step) {
  const std::int64_t rows = logits.rows(), cols = logits.cols();
  const bool gradient = step.loss_scale != 0 || step.divergence_scale != 0;
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    A *ploss = loss.data<A>(), *pdivergence = divergence.data<A>(), *px = logits.data<A>();
    const A* pt = teacher.data<A>();
    const std::int32_t* label = labels.data<std::int32_t>();
    const A cool = A(1 / step.temperature);
    parallel_for(rows, row_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        A* x = px + i * cols;
        if (label[i] < 0) {
          ploss[i] = pdivergence[i] = 0;
          if (gradient) std::fill_n(x, cols, A(0));
          continue;
        }
        const A* t = pt + i * cols;
        const A largest = max_of(x, cols), wanted = max_of(t, cols), target = x[label[i]];
        const auto hard = [=](std::int64_t j) { return exp_of(x[j] - largest); };
        const auto soft = [=](std::int64_t j) { return exp_of((x[j] - largest) * cool); };
        const auto taught = [=](std::int64_t j) { return exp_of((t[j] - wanted) * cool); };
        const double sum = sum_of(0, cols, hard), q_sum = sum_of(0, cols, taught);
        const double p_sum = step.temperature == 1 ? sum : sum_of(0, cols, soft);
        const double gap = sum_of(0, cols, [=](std::int64_t j) {
          const A q = taught(j);  // 0 * infinity is not meant
          return q > 0 ? q * ((t[j] - wanted) * cool - (x[j] - largest) * cool) : A(0);
        });
        ploss[i] = A(std::log(sum) + (double(largest) - double(target)));
        pdivergence[i] = A(gap / q_sum + (std::log(p_sum) - std::log(q_sum)));
        if (!gradient) continue;
        const double pull = step.divergence_scale * step.temperature;
        const A by_q = A(pull / q_sum);
        if (step.temperature == 1) {
          const A both = A(step.loss_scale / sum + pull / p_sum);
          each(0, cols, [=](std::int64_t j) { x[j] = both * hard(j) - by_q * taught(j); });
        } else {
          const A by_hard = A(step.loss_scale / sum), by_p = A(pull / p_sum);
          each(0, cols, [=](std::int64_t j) {
            x[j] = by_hard * hard(j) + (by_p * soft(j) - by_q * taught(j));
          });
        }
        x[label[i]] -= A(step.loss_scale);
      }
    });
  });
}

}  // namespace moe
