// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/gpu.h"

namespace moe {

// Functions with shared memory of their own are static: nvcc and the emulator want both local.

inline constexpr unsigned kAllLanes = 0xffffffffu;

/// The sum over the lanes of the warp, in every lane, always added in the same order. All lanes
/// call it.
template <class A>
__device__ __forceinline__ A warp_sum(A x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

/// The largest of the lanes' numbers, in every lane. NaN is passed over.
template <class A>
__device__ __forceinline__ A warp_max(A x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const A other = __shfl_xor_sync(kAllLanes, x, distance);
    x = other > x ? other : x;
  }
  return x;
}

/// The sum over the threads of the block, in every thread, always added in the same order. All
/// threads of a one-dimensional block of whole warps call it.
template <class A>
static __device__ A block_sum(A x) {
  __shared__ A sums[32];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  x = warp_sum(x);
  if (lane == 0) sums[warp] = x;
  __syncthreads();
  x = warp_sum(lane < blockDim.x / kWarp ? sums[lane] : A(0));
  __syncthreads();  // before the next call writes sums
  return x;
}

/// The same for the largest, NaN passed over.
template <class A>
static __device__ A block_max(A x) {
  __shared__ A largest[32];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  x = warp_max(x);
  if (lane == 0) largest[warp] = x;
  __syncthreads();
  x = warp_max(largest[lane < blockDim.x / kWarp ? lane : 0]);
  __syncthreads();  // before the next call writes largest
  return x;
}

/// 1 / (1 + e^-x)
template <class A>
__device__ __forceinline__ A sigmoid(A x) {
  return A(1) / (A(1) + exp(-x));
}

}  // namespace moe
