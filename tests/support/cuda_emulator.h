// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#include "core/dtype.h"
#include "support/cuda_types.h"

/// Runs CUDA kernels on the CPU: every thread of a block is a fiber on one thread of the operating
/// system, so a .cu file compiled as C++ does what it says, in an order of threads that the test
/// chooses. Part of CUDA as far as the kernels of this project use it: shared memory, barriers,
/// shuffles, votes, integer atomics. x86-64 only. What it finds, and what it cannot:
/// docs/testing.md.
namespace moe::emulator {

/// In which order threads of a block take turns, and blocks of a grid follow each other. A missing
/// barrier is harmless in some orders: a test runs them all.
enum class Order : std::uint8_t { forward, reverse, shuffled };
void set_order(Order order, std::uint64_t seed = 1);

/// Runs `thread` once for every thread of the grid, one block after the other. Shared memory holds
/// 0xFF (NaN, -1) when a block begins. Throws Error when CUDA would not launch it, when threads
/// wait for each other for ever, or when a warp function is called in a way that CUDA does not
/// define; the message names the block and a thread.
void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& thread);

/// Called with true before every grid and with false after it, for memory that is open to kernels
/// alone. None at first.
void set_memory_guard(void (*guard)(bool open));

/// Runs work that was given to a stream: at once, unless somebody else has been asked to, who may
/// do so later and on another thread.
void run_on_stream(CUstream_st* stream, std::function<void()> work);
using StreamRunner = void (*)(CUstream_st* stream, std::function<void()> work);
void set_stream_runner(StreamRunner runner);

// ---- what the functions of CUDA below are made of ----------------------------------------------

void* dynamic_shared_memory();

/// Waits for all threads of the block that still run; returns what was counted when they met.
struct Votes {
  int yes, all;
};
Votes meet_block(bool vote);

/// Which functions lanes meet in: all of them in the same one, with the same mask.
enum class Meeting : std::uint8_t { none, shuffle, vote, sync };

/// Waits for all lanes in `mask` that still run; returns what they brought, by lane. Lanes that did
/// not come brought 0xFF in every byte; `came` has the bits of those that did.
struct Brought {
  std::uint64_t values[32];
  unsigned came;
};
const Brought& meet_lanes(Meeting meeting, unsigned mask, std::uint64_t value);

unsigned lane();

/// Ends the grid with an Error that begins with this thread's name. Nothing on the stack of a fiber
/// that is left for good is destroyed, so none of the callers holds a string.
[[noreturn]] void fail(const char* what);

/// This thread's number in its block, and that of the block among all that have run: what belongs
/// to a block begins anew with each.
unsigned thread_number();
std::uint64_t block_number();

/// Until somebody calls wake() with the same address; orders memory like it.
void wait_for(void* event);
void wake(void* event);

/// Source lane `source` of a shuffle, or this thread's own value where it lies outside of its part
/// of the warp.
template <class T>
T shuffle(unsigned mask, T value, int source, bool inside) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const Brought& brought = meet_lanes(Meeting::shuffle, mask, bits);
  if (inside) std::memcpy(&value, &brought.values[source], sizeof value);
  return value;
}

/// Sums of integers alone do not depend on the order of threads.
template <class T>
concept AtomicInteger = std::is_integral_v<T> &&(sizeof(T) == 4 || sizeof(T) == 8);

template <AtomicInteger T, class F>
T atomic_update(T* address, F next) {
  std::atomic_ref<T> target(*address);
  T old = target.load(std::memory_order_relaxed);
  while (!target.compare_exchange_weak(old, next(old), std::memory_order_relaxed)) {
  }
  return old;
}

}  // namespace moe::emulator

// ---- CUDA's own names --------------------------------------------------------------------------

/// Those of the thread that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

inline void __syncthreads() { moe::emulator::meet_block(false); }
inline int __syncthreads_or(int vote) { return moe::emulator::meet_block(vote != 0).yes > 0; }
inline int __syncthreads_count(int vote) { return moe::emulator::meet_block(vote != 0).yes; }
inline int __syncthreads_and(int vote) {
  const moe::emulator::Votes votes = moe::emulator::meet_block(vote != 0);
  return votes.yes == votes.all;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  moe::emulator::meet_lanes(moe::emulator::Meeting::sync, mask, 0);
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { std::atomic_thread_fence(std::memory_order_seq_cst); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int first = int(moe::emulator::lane()) & ~(width - 1);
  return moe::emulator::shuffle(mask, value, first + (source & (width - 1)), true);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = int(moe::emulator::lane()), source = lane ^ bits;
  return moe::emulator::shuffle(mask, value, source, source < (lane & ~(width - 1)) + width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int lane = int(moe::emulator::lane()), source = lane + int(distance);
  return moe::emulator::shuffle(mask, value, source, source < (lane & ~(width - 1)) + width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int lane = int(moe::emulator::lane()), source = lane - int(distance);
  return moe::emulator::shuffle(mask, value, source, source >= (lane & ~(width - 1)));
}

inline unsigned __ballot_sync(unsigned mask, int vote) {
  const auto& brought = moe::emulator::meet_lanes(moe::emulator::Meeting::vote, mask, vote != 0);
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if ((brought.came >> lane & 1) != 0 && brought.values[lane] != 0) ballot |= 1u << lane;
  return ballot;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, !vote) == 0; }
/// The lanes of the mask that bring the same value.
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const auto& brought = moe::emulator::meet_lanes(moe::emulator::Meeting::vote, mask, bits);
  unsigned same = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if ((brought.came >> lane & 1) != 0 && brought.values[lane] == bits) same |= 1u << lane;
  return same;
}

template <moe::emulator::AtomicInteger T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*address).fetch_add(value, std::memory_order_relaxed);
}
template <moe::emulator::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*address).fetch_or(value, std::memory_order_relaxed);
}
template <moe::emulator::AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return moe::emulator::atomic_update(address, [=](T old) { return old > value ? old : value; });
}
template <moe::emulator::AtomicInteger T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return moe::emulator::atomic_update(address, [=](T old) { return old < value ? old : value; });
}
template <moe::emulator::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return moe::emulator::atomic_update(address,
                                      [=](T old) { return old == expected ? value : old; });
}
