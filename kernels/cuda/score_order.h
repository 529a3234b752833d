// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cuda/gpu.h"

namespace moe {

/// NaN is above every number, so that it is chosen and seen, not hidden.
template <class A>
__device__ __forceinline__ bool above(A a, A b) {
  return a > b || (a != a && b == b);
}

/// Whether score a at place i comes before score b at place j: the greater first, among equals the
/// one at the lower place.
template <class A, class Place>
__device__ __forceinline__ bool comes_before(A a, Place i, A b, Place j) {
  return above(a, b) || (!above(b, a) && i < j);
}

}  // namespace moe
