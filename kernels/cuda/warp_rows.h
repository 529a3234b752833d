// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include "core/tensor.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/vector.h"

namespace moe {

// Short rows, such as a token's scores: one warp takes a row, lane l its entries l, l + 32, ...

inline constexpr int kWarps = int(kThreads / kWarp);

__device__ __forceinline__ int lane_index() { return int(threadIdx.x % kWarp); }
__device__ __forceinline__ int warp_index() { return int(threadIdx.x / kWarp); }

/// Calls body(row) for this warp's share of the rows, with all its lanes. Launch on
/// blocks_for(rows, kWarps) blocks of kThreads.
template <class Body>
__device__ __forceinline__ void each_row(std::int64_t rows, Body body) {
  for (std::int64_t row = std::int64_t(blockIdx.x) * kWarps + warp_index(); row < rows;
       row += std::int64_t(gridDim.x) * kWarps)
    body(row);
}

/// Calls body(i) for this lane's entries of a row of n.
template <class Body>
__device__ __forceinline__ void each_entry(std::int64_t n, Body body) {
  for (std::int64_t i = lane_index(); i < n; i += kWarp) body(i);
}

/// The sum of f(i) over a row of n, in every lane.
template <class A, class F>
__device__ __forceinline__ A row_sum(std::int64_t n, F f) {
  A sum = 0;
  each_entry(n, [&](std::int64_t i) { sum += f(i); });
  return warp_sum(sum);
}

/// The largest f(i) of a row of n, in every lane; -infinity for n = 0. NaN is passed over.
template <class A, class F>
__device__ __forceinline__ A row_max(std::int64_t n, F f) {
  A largest = -std::numeric_limits<A>::infinity();
  each_entry(n, [&](std::int64_t i) {
    const A x = f(i);
    largest = x > largest ? x : largest;
  });
  return warp_max(largest);
}

/// The largest of x[0, n) and the sum of e^(x - largest), in every lane: their log-sum-exp is
/// largest + log(sum). NaN anywhere makes the sum NaN.
template <class A>
struct ExpSum {
  A largest, sum;
};
template <class A>
__device__ __forceinline__ ExpSum<A> exp_sum(const A* x, std::int64_t n) {
  const A largest = row_max<A>(n, [&](std::int64_t i) { return x[i]; });
  return {largest, row_sum<A>(n, [&](std::int64_t i) { return exp(x[i] - largest); })};
}

/// Calls body(i) for this thread's share of n independent elements. Launch on blocks_for(n) blocks.
template <class Body>
__device__ __forceinline__ void each_element(std::int64_t n, Body body) {
  for (std::int64_t i = grid_thread(); i < n; i += grid_threads()) body(i);
}

/// The flags of a tensor that may be undefined: null then, and everything is valid.
inline const std::uint8_t* flags_of(const Tensor& valid) {
  return valid.defined() ? valid.data<std::uint8_t>() : nullptr;
}

}  // namespace moe
