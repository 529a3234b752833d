// SPDX-License-Identifier: Apache-2.0
#pragma once

// The one include of every .cu file: CUDA under nvcc; under a C++ compiler the emulator of the
// tests, which runs the same kernels on the CPU (docs/testing.md).

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "core/cuda_check.h"
/// Declares `T* name`: the dynamic shared memory of the block, aligned to 16 bytes.
#define DYNAMIC_SHARED(T, name)                                          \
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[]; \
  T* const name = reinterpret_cast<T*>(dynamic_shared_memory)
#else
#include "support/cuda_emulator.h"
#define DYNAMIC_SHARED(T, name) \
  T* const name = reinterpret_cast<T*>(::moe::emulator::dynamic_shared_memory())
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace moe {

inline constexpr unsigned kWarp = 32;
/// Threads of a block where nothing asks for another number.
inline constexpr unsigned kThreads = 256;
/// What a block may use without asking for more.
inline constexpr std::size_t kMaxSharedBytes = 48 * 1024;

/// kernel<<<grid, block, shared_bytes, stream>>>(arguments...). Throws Error when it cannot start;
/// shared_bytes: at most 48 KiB, on Hopper 227.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, Arguments&&... arguments) {
#ifdef __CUDACC__
  if (shared_bytes > kMaxSharedBytes)
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    int(shared_bytes)));
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
  CUDA_CHECK(cudaGetLastError());
#else
  emulator::run_on_stream(stream, [=, ... parameters = static_cast<Parameters>(arguments)] {
    emulator::run_grid(grid, block, shared_bytes, [&] { kernel(parameters...); });
  });
#endif
}

/// The whole numbers of parts of size `b` that hold `a` items.
inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Blocks that take `items` between them, `per_block` at a time: no more than fill any device a few
/// times over, so kernels go on with a grid-stride loop. Depends on the size alone.
inline dim3 blocks_for(std::int64_t items, std::int64_t per_block = kThreads) {
  constexpr std::int64_t kMaxBlocks = 4096;
  return dim3(static_cast<unsigned>(std::min(ceil_div(items, per_block), kMaxBlocks)));
}

}  // namespace moe
