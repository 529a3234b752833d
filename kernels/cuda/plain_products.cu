// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/products.h"
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
Operand<T> operand(const MatrixView& m, bool transposed) {
  const T* data = static_cast<const T*>(m.data);
  return transposed ? Operand<T>{data, 1, m.cols} : Operand<T>{data, m.cols, 1};
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

class PlainProducts final : public Products {
 public:
  explicit PlainProducts(cudaStream_t stream) : stream_(stream) {}

  void multiply(void* c, DType out, const MatrixView& a, const MatrixView& b, DType in,
                double beta) override {
    const std::int64_t m = a.transposed ? a.cols : a.rows, k = a.transposed ? a.rows : a.cols;
    const std::int64_t n = b.transposed ? b.rows : b.cols;
    if (m == 0 || n == 0) return;
    const dim3 grid(unsigned(ceil_div(n, kTile)), blocks_for(m, kTile).x);
    for_types(in, out, [&]<class T, class C>(T, C) {
      launch(product_kernel<T, C>, grid, kThreads, 2 * kDepth * (kTile + 1) * sizeof(Acc<T>),
             stream_, m, n, k, static_cast<C*>(c), operand<T>(a, a.transposed),
             operand<T>(b, !b.transposed), beta != 0);
    });
  }

 private:
  // Calls f with the types of a product: T of its factors, C of its result.
  template <class F>
  static void for_types(DType factor, DType result, F&& f) {
    for_float(factor, [&]<class T>(T) {
      if (result == factor) return f(T{}, T{});
      if constexpr (std::is_same_v<T, bf16>)
        if (result == DType::f32) return f(T{}, float{});
      throw Error(str("no product of ", name(factor), " factors gives ", name(result)));
    });
  }

  cudaStream_t stream_;
};

}  // namespace

std::unique_ptr<Products> plain_products(CUstream_st* stream) {
  return std::make_unique<PlainProducts>(stream);
}

}  // namespace moe
