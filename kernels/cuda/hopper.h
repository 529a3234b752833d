// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// Tensor cores and copy engines of Hopper, for the files named hopper_*.cu, which are compiled for
// sm_90a alone: the instructions themselves under nvcc; under a C++ compiler functions of the tests
// that do what the instructions are documented to do, as late as they may (docs/testing.md).

namespace moe::hopper {

/// How a matrix lies in shared memory for a product: in boxes of 64 elements (128 bytes) by some
/// number of lines, as load_box() leaves them, aligned to 1024 bytes. k: a line runs along the
/// summed dimension; mn: along the rows of a, or the columns of b, and a box has kBoxLines lines of
/// the summed dimension.
enum class Major { k, mn };

}  // namespace moe::hopper

#ifdef __CUDACC__
#include <cuda.h>
#include <cudaTypedefs.h>

#include "kernels/cuda/hopper_ptx.h"
#else
#include "support/hopper_emulator.h"
#endif

namespace moe::hopper {

inline constexpr unsigned kBoxElements = 64, kBoxLines = 64;
inline constexpr unsigned kBoxBytes = kBoxLines * kBoxElements * 2;

/// The operand whose first element of the summed dimension is number `k`, a multiple of 16, of the
/// boxes at shared address `boxes`. Bits: PTX ISA, "Matrix descriptor" of wgmma.
template <Major kMajor>
__device__ __forceinline__ std::uint64_t operand(unsigned boxes, unsigned k) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  constexpr std::uint64_t kEightLines = 8 * kBoxElements * 2;  // bytes
  const unsigned start = boxes + (kMajor == Major::k ? k * 2 : k * kBoxElements * 2);
  const std::uint64_t next_box = kMajor == Major::k ? 16 : kBoxBytes;  // no meaning for Major::k
  return kSwizzle128 | (kEightLines >> 4) << 32 | (next_box >> 4) << 16 | (start & 0x3ffff) >> 4;
}

}  // namespace moe::hopper
