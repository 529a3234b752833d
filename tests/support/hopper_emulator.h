// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "support/cuda_emulator.h"

// What kernels/cuda/hopper_ptx.h declares, for kernels compiled as C++; see there. Copies and
// products happen as late as the instructions allow: a copy when a thread waits for its barrier, a
// product when its thread waits for products. What is used too early is poison or belongs to
// another tile.

namespace moe::hopper {

struct TensorMap {
  const void* base;
  std::uint64_t size[3], stride[2];
  std::uint32_t box[3];
};

/// Throws Error for what the copy engine does not take.
TensorMap tensor_map(const void* base, const std::uint64_t (&size)[3],
                     const std::uint64_t (&stride)[2], const std::uint32_t (&box)[3]);

unsigned shared_address(const void* p);

using Barrier = std::uint64_t;
void init_barrier(Barrier* barrier, unsigned arrivals);
inline void publish_barriers() {}
void arrive(Barrier* barrier);
void arrive_expecting(Barrier* barrier, unsigned bytes);
void wait(Barrier* barrier, unsigned parity);
void load_box(void* to, const TensorMap& map, Barrier* barrier, int x, int y, int z);
inline void publish_shared_writes() {}
void meet(unsigned number, unsigned threads);

template <unsigned kRegisters>
void give_registers() {}
template <unsigned kRegisters>
void take_registers() {}

void begin_products();
void end_products();
void wait_products_but(int pending);
template <int kPending>
void wait_products() {
  wait_products_but(kPending);
}

void multiply(float* sum, int columns, bool a_k_major, bool b_k_major, std::uint64_t a,
              std::uint64_t b);
template <Major kA, Major kB, int kSums>
void multiply(float (&sum)[kSums], std::uint64_t a, std::uint64_t b) {
  multiply(sum, kSums * 2, kA == Major::k, kB == Major::k, a, b);
}

}  // namespace moe::hopper
