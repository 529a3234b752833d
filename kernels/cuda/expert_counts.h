// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "kernels/cuda/gpu.h"

namespace moe {

/// Pairs that are counted at once.
inline constexpr std::int64_t kCountedPairs = 1024;
/// Limit of the experts that are counted: their counters must fit into shared memory.
inline constexpr std::int64_t kMaxCountedExperts = 1024;

/// counts[s, e, c] = how often expert e stands in chunk c, of kCountedPairs pairs, of segment s.
/// indices: [segments, length], of which -1 counts for none; counts: [segments, experts, chunks].
/// A block per chunk; shared memory: experts i32. The order of the integer additions does not
/// matter. Bytes moved: 4 per pair and 4 * experts per chunk.
static __global__ void __launch_bounds__(kThreads)
    count_chunks_kernel(std::int32_t* counts, const std::int32_t* indices, std::int64_t segments,
                        std::int64_t length, std::int64_t chunks, std::int64_t experts) {
  DYNAMIC_SHARED(std::int32_t, count);
  for (std::int64_t block = blockIdx.x; block < segments * chunks; block += gridDim.x) {
    const std::int64_t segment = block / chunks, chunk = block % chunks;
    for (std::int64_t e = threadIdx.x; e < experts; e += blockDim.x) count[e] = 0;
    __syncthreads();
    const std::int64_t first = chunk * kCountedPairs, last = min(length, first + kCountedPairs);
    for (std::int64_t i = first + threadIdx.x; i < last; i += blockDim.x) {
      const std::int32_t e = indices[segment * length + i];
      if (e >= 0) atomicAdd(&count[e], 1);
    }
    __syncthreads();
    // Each thread writes the counters that it clears for the next chunk.
    for (std::int64_t e = threadIdx.x; e < experts; e += blockDim.x)
      counts[(segment * experts + e) * chunks + chunk] = count[e];
  }
}

/// Launches it, on a `counts` of i32[segments, experts, ceil(length / kCountedPairs)].
inline void count_chunks(Tensor& counts, const Tensor& indices, cudaStream_t stream) {
  const std::int64_t segments = counts.dim(0), experts = counts.dim(1), chunks = counts.dim(2);
  MOE_CHECK(experts <= kMaxCountedExperts, "at most ", kMaxCountedExperts,
            " experts can be counted on the device, not ", experts);
  if (counts.size() == 0) return;
  launch(count_chunks_kernel, blocks_for(segments * chunks, 1), kThreads,
         std::size_t(experts) * sizeof(std::int32_t), stream, counts.data<std::int32_t>(),
         indices.data<std::int32_t>(), segments, indices.size() / segments, chunks, experts);
}

}  // namespace moe
