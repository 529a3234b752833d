// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/vector.h"

// Matrix products as tiles of multiply-adds in shared memory, for any shape, stride and type: what
// faster products are held against, and those of f64.

namespace moe {
namespace {

// A block computes kTile x kTile results, a thread kPart x kPart of them, kDepth terms at a time.
constexpr int kTile = 64, kPart = 4, kDepth = 16, kSide = kTile / kPart;
static_assert(kSide * kSide == int(kThreads));

// op(x)(i, j) lies at data[i * row + j * col].
template <class T>
struct Operand {
  const T* data;
  std::int64_t row, col;
};

template <class T>
Operand<T> operand(const T* data, std::int64_t stored_cols, bool transposed) {
  return transposed ? Operand<T>{data, 1, stored_cols} : Operand<T>{data, stored_cols, 1};
}

// tile[p][i] = x(first + i, depth + p) for i < kTile, p < kDepth, zeros outside of [rows, k].
// Neighbouring threads read neighbouring addresses.
template <class T, class A>
__device__ __forceinline__ void load_tile(A (*tile)[kTile + 1], const Operand<T>& x,
                                          std::int64_t first, std::int64_t rows, std::int64_t depth,
                                          std::int64_t k) {
  for (int e = int(threadIdx.x); e < kTile * kDepth; e += int(kThreads)) {
    const int i = x.col == 1 ? e / kDepth : e % kTile, p = x.col == 1 ? e % kDepth : e / kTile;
    const bool inside = first + i < rows && depth + p < k;
    tile[p][i] = inside ? A(widen(x.data[(first + i) * x.row + (depth + p) * x.col])) : A(0);
  }
}

// c = a b + (add ? c : 0); b is given by its transpose. c: [m, n], row-major. Every element is the
// sum over k in ascending order, begun at what is added to. Bytes: a n/64 times, b m/64 times, c
// once.
template <class T, class C>
__global__ void __launch_bounds__(kThreads)
    product_kernel(std::int64_t m, std::int64_t n, std::int64_t k, C* c, Operand<T> a, Operand<T> b,
                   bool add) {
  using A = Acc<T>;
  DYNAMIC_SHARED(A, shared);
  auto* tile_a = reinterpret_cast<A(*)[kTile + 1]>(shared);
  auto* tile_b = tile_a + kDepth;
  const int thread_row = int(threadIdx.x) / kSide, thread_col = int(threadIdx.x) % kSide;
  for (std::int64_t first_row = std::int64_t(blockIdx.y) * kTile; first_row < m;
       first_row += std::int64_t(gridDim.y) * kTile) {
    const std::int64_t first_col = std::int64_t(blockIdx.x) * kTile;
    const auto row = [&](int i) { return first_row + thread_row + i * kSide; };
    const auto col = [&](int j) { return first_col + thread_col + j * kSide; };
    A sums[kPart][kPart];
    for (int i = 0; i < kPart; ++i)
      for (int j = 0; j < kPart; ++j)
        sums[i][j] = add && row(i) < m && col(j) < n ? A(widen(c[row(i) * n + col(j)])) : A(0);
    for (std::int64_t depth = 0; depth < k; depth += kDepth) {
      __syncthreads();  // the tiles before have been used
      load_tile(tile_a, a, first_row, m, depth, k);
      load_tile(tile_b, b, first_col, n, depth, k);
      __syncthreads();
#pragma unroll
      for (int p = 0; p < kDepth; ++p)
#pragma unroll
        for (int i = 0; i < kPart; ++i)
#pragma unroll
          for (int j = 0; j < kPart; ++j)
            sums[i][j] += tile_a[p][thread_row + i * kSide] * tile_b[p][thread_col + j * kSide];
    }
    for (int i = 0; i < kPart; ++i)
      for (int j = 0; j < kPart; ++j)
        if (row(i) < m && col(j) < n) c[row(i) * n + col(j)] = narrow<C>(sums[i][j]);
  }
}

// c: [m, n]; b: op(b)^T.
template <class T, class C>
void product(cudaStream_t stream, std::int64_t m, std::int64_t n, std::int64_t k, C* c,
             Operand<T> a, Operand<T> b, double beta) {
  if (m == 0 || n == 0) return;
  const dim3 grid(unsigned(ceil_div(n, kTile)), blocks_for(m, kTile).x);
  launch(product_kernel<T, C>, grid, kThreads, 2 * kDepth * (kTile + 1) * sizeof(Acc<T>), stream, m,
         n, k, c, a, b, beta != 0);
}

// Calls f with the types of a product: T of its factors, C of its result.
template <class F>
void for_product(DType factor, DType result, F&& f) {
  for_float(factor, [&]<class T>(T) {
    if (result == factor) return f(T{}, T{});
    if constexpr (std::is_same_v<T, bf16>)
      if (result == DType::f32) return f(T{}, float{});
    throw Error(str("no product of ", name(factor), " factors gives ", name(result)));
  });
}

}  // namespace

void CudaBackend::gemm(Tensor& c, const Tensor& a, bool transpose_a, const Tensor& b,
                       bool transpose_b, double beta) {
  const std::int64_t k = transpose_a ? a.rows() : a.cols();
  for_product(a.dtype(), c.dtype(), [&]<class T, class C>(T, C) {
    product(stream_, c.rows(), c.cols(), k, c.data<C>(),
            operand(a.data<T>(), a.cols(), transpose_a),
            operand(b.data<T>(), b.cols(), !transpose_b), beta);
  });
}

void CudaBackend::grouped_gemm_up(Tensor& hidden, const Tensor& x, const Tensor& w,
                                  const ExpertGroups& groups) {
  const std::int64_t width = w.cols();
  for_float(x.dtype(), [&]<class T>(T) {
    T* to = hidden.data<T>();
    for (std::int64_t e = 0; e < groups.experts(); ++e) {
      const std::int64_t rows = groups.rows_of(e), neurons = groups.neurons_of(e);
      product(stream_, rows, neurons, width, to,
              operand(x.data<T>() + groups.rows[std::size_t(e)] * width, width, false),
              operand(w.data<T>() + groups.neurons[std::size_t(e)] * width, width, false), 0);
      to += rows * neurons;
    }
  });
}

void CudaBackend::grouped_gemm_down(Tensor& y, const Tensor& hidden, const Tensor& w,
                                    const ExpertGroups& groups, double beta) {
  const std::int64_t width = w.cols();
  for_float(y.dtype(), [&]<class T>(T) {
    const T* from = hidden.data<T>();
    for (std::int64_t e = 0; e < groups.experts(); ++e) {
      const std::int64_t rows = groups.rows_of(e), neurons = groups.neurons_of(e);
      product(stream_, rows, width, neurons, y.data<T>() + groups.rows[std::size_t(e)] * width,
              operand(from, neurons, false),
              operand(w.data<T>() + groups.neurons[std::size_t(e)] * width, width, true), beta);
      from += rows * neurons;
    }
  });
}

void CudaBackend::grouped_gemm_weight(Tensor& dw, const Tensor& hidden, const Tensor& x,
                                      const ExpertGroups& groups, double beta) {
  const std::int64_t width = dw.cols();
  for_product(x.dtype(), dw.dtype(), [&]<class T, class C>(T, C) {
    const T* from = hidden.data<T>();
    for (std::int64_t e = 0; e < groups.experts(); ++e) {
      const std::int64_t rows = groups.rows_of(e), neurons = groups.neurons_of(e);
      product(stream_, neurons, width, rows, dw.data<C>() + groups.neurons[std::size_t(e)] * width,
              operand(from, neurons, true),
              operand(x.data<T>() + groups.rows[std::size_t(e)] * width, width, true), beta);
      from += rows * neurons;
    }
  });
}

}  // namespace moe
