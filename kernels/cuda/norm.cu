// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/vector.h"

namespace moe {
namespace {

// One block for a row. Bytes: x and y once, from memory; the row is read again from the cache, and
// so is w.
template <class T>
__global__ void __launch_bounds__(kThreads)
    rmsnorm_forward_kernel(std::int64_t rows, int cols, bool whole, Acc<T> eps, T* y, Acc<T>* rstd,
                           const T* x, const T* w) {
  using A = Acc<T>;
  constexpr int n = kWidth<T>;
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* xs = x + row * cols;
    A squares = 0;
    for (int j = int(threadIdx.x) * n; j < cols; j += int(blockDim.x) * n) {
      const Vector<T, n> in = load<n>(xs + j, cols - j, whole);  // zeros behind the end
#pragma unroll
      for (int i = 0; i < n; ++i) squares += widen(in.at[i]) * widen(in.at[i]);
    }
    const A r = A(1) / sqrt(block_sum(squares) / A(cols) + eps);
    if (threadIdx.x == 0) rstd[row] = r;
    for (int j = int(threadIdx.x) * n; j < cols; j += int(blockDim.x) * n) {
      const Vector<T, n> in = load<n>(xs + j, cols - j, whole),
                         by = load<n>(w + j, cols - j, whole);
      Vector<T, n> out;
#pragma unroll
      for (int i = 0; i < n; ++i) out.at[i] = narrow<T>(widen(in.at[i]) * r * widen(by.at[i]));
      store(y + row * cols + j, out, cols - j, whole);
    }
  }
}

// Blocks that share the rows; each adds up its part of dw.
constexpr unsigned kParts = 256;

// dx, and partial[block, :] = the sum of dy * xhat over the block's rows, in their order. The sums
// stay in shared memory where a row of them fits. Bytes: dy, x and dx once, from memory; rows are
// read again from the cache.
template <class T>
__global__ void __launch_bounds__(kThreads)
    rmsnorm_backward_kernel(std::int64_t rows, int cols, bool whole, bool in_shared, T* dx,
                            Acc<T>* partial, const T* dy, const T* x, const T* w,
                            const Acc<T>* rstd) {
  using A = Acc<T>;
  constexpr int n = kWidth<T>;
  DYNAMIC_SHARED(A, shared);
  partial += std::int64_t(blockIdx.x) * cols;
  A* sums = in_shared ? shared : partial;  // each column belongs to one thread
  const int first = int(threadIdx.x) * n, step = int(blockDim.x) * n;
  for (int j = first; j < cols; j += step)
    for (int i = 0; i < n && j + i < cols; ++i) sums[j + i] = 0;
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T *xs = x + row * cols, *dys = dy + row * cols;
    const A r = rstd[row];
    A dot = 0;
    for (int j = first; j < cols; j += step) {
      const Vector<T, n> in = load<n>(xs + j, cols - j, whole),
                         g = load<n>(dys + j, cols - j, whole),
                         by = load<n>(w + j, cols - j, whole);
#pragma unroll
      for (int i = 0; i < n; ++i) dot += widen(g.at[i]) * widen(by.at[i]) * widen(in.at[i]);
    }
    const A mean = block_sum(dot) * r / A(cols);
    for (int j = first; j < cols; j += step) {
      const Vector<T, n> in = load<n>(xs + j, cols - j, whole),
                         g = load<n>(dys + j, cols - j, whole),
                         by = load<n>(w + j, cols - j, whole);
      Vector<T, n> out;
#pragma unroll
      for (int i = 0; i < n; ++i) {
        const A gradient = widen(g.at[i]), normal = widen(in.at[i]) * r;
        out.at[i] = narrow<T>(r * (gradient * widen(by.at[i]) - normal * mean));
        if (j + i < cols) sums[j + i] += gradient * normal;
      }
      store(dx + row * cols + j, out, cols - j, whole);
    }
  }
  if (in_shared)
    for (int j = first; j < cols; j += step)
      for (int i = 0; i < n && j + i < cols; ++i) partial[j + i] = sums[j + i];
}

// dw[j] = the sum of partial[:, j], in order. Bytes: partial once, which the cache still holds.
template <class A>
__global__ void __launch_bounds__(kThreads)
    add_columns_kernel(int parts, int cols, A* dw, const A* partial) {
  const std::int64_t j = grid_thread();
  if (j >= cols) return;
  double sum = 0;
  for (int p = 0; p < parts; ++p) sum += double(partial[std::int64_t(p) * cols + j]);
  dw[j] = A(sum);
}

}  // namespace

void CudaBackend::rmsnorm_forward(Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& w,
                                  double eps) {
  const std::int64_t rows = x.rows(), cols = x.cols();
  if (x.size() == 0) return;
  for_float(x.dtype(), [&]<class T>(T) {
    T* py = y.data<T>();
    const T *px = x.data<T>(), *pw = w.data<T>();
    const bool whole = aligned(py, px, pw) && cols % kWidth<T> == 0;
    launch(rmsnorm_forward_kernel<T>, blocks_for(rows, 1), kThreads, 0, stream_, rows, int(cols),
           whole, static_cast<Acc<T>>(eps), py, rstd.data<Acc<T>>(), px, pw);
  });
}

void CudaBackend::rmsnorm_backward(Tensor& dx, Tensor& dw, const Tensor& dy, const Tensor& x,
                                   const Tensor& w, const Tensor& rstd) {
  const std::int64_t rows = x.rows(), cols = x.cols();
  if (cols == 0) return;
  const unsigned parts = std::min(blocks_for(rows, 1).x, kParts);
  const Tensor partial = Tensor::empty({parts, cols}, dw.dtype(), x.device());
  for_float(x.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    T* pdx = dx.data<T>();
    const T *pdy = dy.data<T>(), *px = x.data<T>(), *pw = w.data<T>();
    const bool whole = aligned(pdx, pdy, px, pw) && cols % kWidth<T> == 0;
    const std::size_t sums = std::size_t(cols) * sizeof(A);
    const bool in_shared = sums <= kMaxSharedBytes - 1024;  // which block_sum() uses a little of
    if (parts > 0)
      launch(rmsnorm_backward_kernel<T>, parts, kThreads, in_shared ? sums : 0, stream_, rows,
             int(cols), whole, in_shared, pdx, partial.data<A>(), pdy, px, pw, rstd.data<A>());
    launch(add_columns_kernel<A>, dim3(unsigned(ceil_div(cols, kThreads))), kThreads, 0, stream_,
           int(parts), int(cols), dw.data<A>(), partial.data<A>());
  });
}

}  // namespace moe
