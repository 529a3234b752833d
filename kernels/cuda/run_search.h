// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cuda/gpu.h"

namespace moe {

/// The first i in [first, last) with test(i), last where there is none. Where the test holds it
/// holds for all that follow.
template <class Test>
__device__ __forceinline__ int first_with(int first, int last, Test test) {
  while (first < last) {
    const int middle = first + (last - first) / 2;
    if (test(middle))
      last = middle;
    else
      first = middle + 1;
  }
  return first;
}

}  // namespace moe
