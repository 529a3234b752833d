// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/dtype.h"
#include "kernels/cuda/gpu.h"

namespace moe {

// ---- numbers: every T is computed in Acc<T> ----------------------------------------------------

__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
template <class T>
__device__ __forceinline__ T widen(T x) {
  return x;
}

/// Rounds to T: to nearest, ties to even.
template <class T, class A>
__device__ __forceinline__ T narrow(A x) {
  if constexpr (std::is_same_v<T, bf16>) {
    bf16 y;
    y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(x)));
    return y;
  } else {
    return static_cast<T>(x);
  }
}

// ---- vectors: neighbours in memory that one thread takes at once --------------------------------

/// N numbers in a row. 16 bytes of them are one access.
template <class T, int N>
struct alignas(std::min<std::size_t>(16, N * sizeof(T))) Vector {
  T at[N];
};

/// How many elements of each of the types make 16 bytes or more of every one.
template <class... T>
inline constexpr int kWidth = int(16 / std::min({sizeof(T)...}));

/// Whether whole vectors may be read and written at these addresses.
template <class... T>
bool aligned(const T*... pointers) {
  return ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
}

/// p[0, N), of which only the first `count` are there: the others become zeros. `whole`: p may be
/// read as vectors (see aligned()).
template <int N, class T>
__device__ __forceinline__ Vector<T, N> load(const T* p, std::int64_t count, bool whole) {
  if (whole && count >= N) return *reinterpret_cast<const Vector<T, N>*>(p);
  Vector<T, N> v;
#pragma unroll
  for (int j = 0; j < N; ++j) v.at[j] = j < count ? p[j] : T{};
  return v;
}

/// p[0, min(N, count)) = v
template <int N, class T>
__device__ __forceinline__ void store(T* p, const Vector<T, N>& v, std::int64_t count, bool whole) {
  if (whole && count >= N) {
    *reinterpret_cast<Vector<T, N>*>(p) = v;
    return;
  }
#pragma unroll
  for (int j = 0; j < N; ++j)
    if (j < count) p[j] = v.at[j];
}

/// This thread's number among all of the grid, and how many there are: one-dimensional launches.
__device__ __forceinline__ std::int64_t grid_thread() {
  return std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ std::int64_t grid_threads() {
  return std::int64_t(gridDim.x) * blockDim.x;
}

}  // namespace moe
