// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/vector.h"

namespace moe {
namespace {

constexpr unsigned kMaxThreads = 512;

/// A block per row. The first pass finds the largest logit and the sum of exponentials together:
/// where a larger logit turns up, the sum so far is scaled down. The second writes the gradient.
/// Bytes moved: the logits once without a gradient; read twice and written once with one, the
/// second reading mostly from the L2 cache (a row of 128k f32 is 0.5 MB).
template <class A>
__global__ void __launch_bounds__(kMaxThreads)
    cross_entropy_kernel(A* loss, A* logits, const std::int32_t* labels, std::int64_t rows,
                         std::int64_t cols, A gradient_scale, bool whole) {
  constexpr int N = kWidth<A>;
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    A* x = logits + row * cols;
    const std::int64_t label = labels[row];
    const std::int64_t first = std::int64_t(threadIdx.x) * N, stride = std::int64_t(blockDim.x) * N;
    if (label < 0) {
      if (threadIdx.x == 0) loss[row] = 0;
      if (gradient_scale != 0)
        for (std::int64_t j = first; j < cols; j += stride)
          store<N>(x + j, Vector<A, N>{}, cols - j, whole);
      continue;
    }

    A largest = std::numeric_limits<A>::lowest();  // finite: e^(-infinity - largest) is 0, not NaN
    A sum = 0;
    for (std::int64_t j = first; j < cols; j += stride) {
      const Vector<A, N> v = load<N>(x + j, cols - j, whole);
      const int count = int(min(std::int64_t(N), cols - j));
      A top = largest;
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (i < count && v.at[i] > top) top = v.at[i];
      if (top > largest) {
        sum *= exp(largest - top);
        largest = top;
      }
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (i < count) sum += exp(v.at[i] - largest);
    }
    const A target = x[label];  // before any thread overwrites it
    const A own = largest;
    largest = block_max(own);
    sum = block_sum(sum * exp(own - largest));
    if (threadIdx.x == 0) loss[row] = log(sum) + (largest - target);
    if (gradient_scale == 0) continue;

    const A factor = gradient_scale / sum;
    for (std::int64_t j = first; j < cols; j += stride) {
      Vector<A, N> v = load<N>(x + j, cols - j, whole);
#pragma unroll
      for (int i = 0; i < N; ++i)
        v.at[i] = exp(v.at[i] - largest) * factor - (j + i == label ? gradient_scale : A(0));
      store<N>(x + j, v, cols - j, whole);
    }
  }
}

/// A block per row, in three passes: the largest logits, the sums of exponentials, the gradient.
/// Bytes moved: both rows of logits once, then from the L2 cache; one written with a gradient.
template <class A>
__global__ void __launch_bounds__(kMaxThreads, 1)
    distillation_kernel(A* loss, A* divergence, A* logits, const A* teacher,
                        const std::int32_t* labels, std::int64_t rows, std::int64_t cols,
                        A temperature, A loss_scale, A divergence_scale, bool whole) {
  constexpr int N = kWidth<A>;
  const A cool = A(1) / temperature;
  const bool gradient = loss_scale != 0 || divergence_scale != 0;
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    A* x = logits + row * cols;
    const A* t = teacher + row * cols;
    const std::int64_t label = labels[row];
    const std::int64_t first = std::int64_t(threadIdx.x) * N, stride = std::int64_t(blockDim.x) * N;
    if (label < 0) {
      if (threadIdx.x == 0) loss[row] = divergence[row] = 0;
      if (gradient)
        for (std::int64_t j = first; j < cols; j += stride)
          store<N>(x + j, Vector<A, N>{}, cols - j, whole);
      continue;
    }

    A largest = std::numeric_limits<A>::lowest(), wanted = largest;  // finite, as above
    for (std::int64_t j = first; j < cols; j += stride) {
      const Vector<A, N> v = load<N>(x + j, cols - j, whole), w = load<N>(t + j, cols - j, whole);
      const int count = int(min(std::int64_t(N), cols - j));
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (i < count && v.at[i] > largest) largest = v.at[i];
        if (i < count && w.at[i] > wanted) wanted = w.at[i];
      }
    }
    const A target = x[label];  // before any thread overwrites it
    largest = block_max(largest);
    wanted = block_max(wanted);

    A sum = 0, p_sum = 0, q_sum = 0, gap = 0;
    for (std::int64_t j = first; j < cols; j += stride) {
      const Vector<A, N> v = load<N>(x + j, cols - j, whole), w = load<N>(t + j, cols - j, whole);
      const int count = int(min(std::int64_t(N), cols - j));
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (i >= count) break;
        const A p = (v.at[i] - largest) * cool, q = (w.at[i] - wanted) * cool, share = exp(q);
        sum += exp(v.at[i] - largest);
        p_sum += exp(p);
        q_sum += share;
        if (share > 0) gap += share * (q - p);  // 0 * infinity is not meant
      }
    }
    sum = block_sum(sum);
    p_sum = block_sum(p_sum);
    q_sum = block_sum(q_sum);
    gap = block_sum(gap);
    if (threadIdx.x == 0) {
      loss[row] = log(sum) + (largest - target);
      divergence[row] = gap / q_sum + (log(p_sum) - log(q_sum));
    }
    if (!gradient) continue;

    const A pull = divergence_scale * temperature;
    const A by_hard = loss_scale / sum, by_p = pull / p_sum, by_q = pull / q_sum;
    for (std::int64_t j = first; j < cols; j += stride) {
      Vector<A, N> v = load<N>(x + j, cols - j, whole);
      const Vector<A, N> w = load<N>(t + j, cols - j, whole);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const A shifted = v.at[i] - largest;
        v.at[i] = by_hard * exp(shifted) - (j + i == label ? loss_scale : A(0)) +
                  (by_p * exp(shifted * cool) - by_q * exp((w.at[i] - wanted) * cool));
      }
      store<N>(x + j, v, cols - j, whole);
    }
  }
}

/// Threads of a block that share a row of `cols` numbers.
template <class A>
unsigned threads_for(std::int64_t cols) {
  const std::int64_t vectors = ceil_div(cols, kWidth<A>);
  return unsigned(std::min<std::int64_t>(kMaxThreads, ceil_div(vectors, kWarp) * kWarp));
}

}  // namespace

void CudaBackend::cross_entropy(Tensor& loss, Tensor& logits, const Tensor& labels,
                                double gradient_scale) {
  const std::int64_t rows = logits.rows(), cols = logits.cols();
  if (rows == 0) return;
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    A* x = logits.data<A>();
    launch(cross_entropy_kernel<A>, blocks_for(rows, 1), threads_for<A>(cols), 0, stream_,
           loss.data<A>(), x, labels.data<std::int32_t>(), rows, cols, A(gradient_scale),
           aligned(x) && cols % kWidth<A> == 0);
  });
}

void CudaBackend::distillation(Tensor& loss, Tensor& divergence, Tensor& logits,
                               const Tensor& teacher, const Tensor& labels,
                               const DistillationStep& step) {
  const std::int64_t rows = logits.rows(), cols = logits.cols();
  if (rows == 0) return;
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    A* x = logits.data<A>();
    const A* t = teacher.data<A>();
    launch(distillation_kernel<A>, blocks_for(rows, 1), threads_for<A>(cols), 0, stream_,
           loss.data<A>(), divergence.data<A>(), x, t, labels.data<std::int32_t>(), rows, cols,
           A(step.temperature), A(step.loss_scale), A(step.divergence_scale),
           aligned(x) && aligned(t) && cols % kWidth<A> == 0);
  });
}

}  // namespace moe
