// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/vector.h"

namespace moe {
namespace {

// One block for a row; a thread turns a few neighbouring pairs of one head, so y may be x.
// Bytes: x and y once; the tables come from the cache.
template <class T>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(std::int64_t rows, int heads, int half, std::int64_t length,
                std::int64_t first_position, Acc<T> direction, bool whole, T* y, const T* x,
                const Acc<T>* cos, const Acc<T>* sin, const std::int32_t* positions) {
  using A = Acc<T>;
  constexpr int n = kWidth<T>;
  const int per_head = (half + n - 1) / n;
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const std::int64_t position =
        positions == nullptr ? first_position + row % length : positions[row];
    const std::int64_t table = position * half;
    for (int item = int(threadIdx.x); item < heads * per_head; item += int(blockDim.x)) {
      const int head = item / per_head, j = item % per_head * n;
      const std::int64_t at = (row * heads + head) * 2 * half + j;
      const Vector<T, n> as = load<n>(x + at, half - j, whole),
                         bs = load<n>(x + at + half, half - j, whole);
      const Vector<A, n> cosines = load<n>(cos + table + j, half - j, whole),
                         sines = load<n>(sin + table + j, half - j, whole);
      Vector<T, n> first, second;
#pragma unroll
      for (int i = 0; i < n; ++i) {
        const A a = widen(as.at[i]), b = widen(bs.at[i]);
        const A cosine = cosines.at[i], sine = direction * sines.at[i];
        first.at[i] = narrow<T>(a * cosine - b * sine);
        second.at[i] = narrow<T>(b * cosine + a * sine);
      }
      store(y + at, first, half - j, whole);
      store(y + at + half, second, half - j, whole);
    }
  }
}

}  // namespace

void CudaBackend::rope(Tensor& y, const Tensor& x, const Tensor& cos, const Tensor& sin,
                       const Tensor& positions, std::int64_t heads, std::int64_t length,
                       std::int64_t first_position, bool inverse) {
  if (x.size() == 0) return;
  const std::int64_t half = x.cols() / heads / 2;
  for_float(x.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    T* py = y.data<T>();
    const T* px = x.data<T>();
    const A *pc = cos.data<A>(), *ps = sin.data<A>();
    const bool whole = aligned(py, px, pc, ps) && half % kWidth<T> == 0;
    launch(rope_kernel<T>, blocks_for(x.rows(), 1), kThreads, 0, stream_, x.rows(), int(heads),
           int(half), length, first_position, inverse ? A(-1) : A(1), whole, py, px, pc, ps,
           positions.defined() ? positions.data<std::int32_t>() : nullptr);
  });
}

}  // namespace moe
