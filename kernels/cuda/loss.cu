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

}  // namespace

void CudaBackend::cross_entropy(Tensor& loss, Tensor& logits, const Tensor& labels,
                                double gradient_scale) {
  const std::int64_t rows = logits.rows(), cols = logits.cols();
  if (rows == 0) return;
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    A* x = logits.data<A>();
    const std::int64_t vectors = ceil_div(cols, kWidth<A>);
    const auto threads =
        unsigned(std::min<std::int64_t>(kMaxThreads, ceil_div(vectors, kWarp) * kWarp));
    launch(cross_entropy_kernel<A>, blocks_for(rows, 1), threads, 0, stream_, loss.data<A>(), x,
           labels.data<std::int32_t>(), rows, cols, A(gradient_scale),
           aligned(x) && cols % kWidth<A> == 0);
  });
}

}  // namespace moe
