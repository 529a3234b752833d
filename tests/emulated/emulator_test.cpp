// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gpu.h"
#include "support/cuda_emulator.h"

// The emulator itself: kernels that are right, and kernels with the faults that it is there to
// find.

namespace moe {
namespace {

using emulator::Order;
using ::testing::HasSubstr;

constexpr Order kOrders[] = {Order::forward, Order::reverse, Order::shuffled};

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared,
         Arguments... arguments) {
  launch(kernel, grid, block, shared, nullptr, arguments...);
}

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

__global__ void indices_kernel(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1 + int(block * 1000 + thread);
}

TEST(Emulator, EveryThreadOfEveryBlockRunsOnce) {
  for (const Order order : kOrders) {
    emulator::set_order(order);
    std::vector<int> out(12 * 30);
    run(indices_kernel, dim3(2, 3, 2), dim3(5, 2, 3), 0, out.data());
    for (int i = 0; i < int(out.size()); ++i)
      EXPECT_EQ(out[std::size_t(i)], 1 + i / 30 * 1000 + i % 30);
  }
  emulator::set_order(Order::forward);
}

// Turns 64 numbers around through shared memory; `barrier`: with the barrier it needs.
__global__ void turn_kernel(int* out, const int* in, bool barrier) {
  __shared__ int tile[64];
  tile[threadIdx.x] = in[threadIdx.x];
  if (barrier) __syncthreads();
  out[threadIdx.x] = tile[63 - threadIdx.x];
}

TEST(Emulator, AMissingBarrierChangesResultsInSomeOrder) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "the thread sanitizer reports it first";
#endif
  std::vector<int> in(64), turned(64);
  for (int i = 0; i < 64; ++i) turned[std::size_t(63 - i)] = in[std::size_t(i)] = i + 1;
  int right = 0, wrong = 0;
  for (const Order order : kOrders) {
    emulator::set_order(order);
    std::vector<int> out(64);
    run(turn_kernel, 1, 64, 0, out.data(), in.data(), true);
    right += out == turned;
    run(turn_kernel, 1, 64, 0, out.data(), in.data(), false);
    wrong += out != turned;
  }
  emulator::set_order(Order::forward);
  EXPECT_EQ(right, 3);
  EXPECT_GE(wrong, 1);
}

__global__ void unwritten_kernel(float* out) {
  __shared__ float fixed[40];
  DYNAMIC_SHARED(float, dynamic);
  if (threadIdx.x != 7) fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = fixed[threadIdx.x];
  out[threadIdx.x + 40] = dynamic[threadIdx.x];
}

TEST(Emulator, UnwrittenSharedMemoryIsNaNInEveryBlock) {
  std::vector<float> out(80);
  run(unwritten_kernel, 3, 40, 40 * sizeof(float), out.data());
  for (std::size_t i = 0; i < 80; ++i) EXPECT_EQ(std::isnan(out[i]), i % 40 == 7) << i;
}

__global__ void uninitialised_output_kernel(float* out, int size) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < size - 1) out[i] = 1;  // off by one
}

TEST(Emulator, AnOutputThatIsNotWrittenStaysPoisoned) {
  std::vector<float> out(100, NAN);
  run(uninitialised_output_kernel, 4, 32, 0, out.data(), 100);
  EXPECT_EQ(out[98], 1);
  EXPECT_TRUE(std::isnan(out[99]));
}

__global__ void half_barrier_kernel(int* out) {
  if (threadIdx.x < 40)
    __syncthreads();
  else
    __shfl_sync(kAllLanes, 1, 0);
  out[threadIdx.x] = 1;
}

TEST(Emulator, ABarrierThatNotAllReachIsAnErrorThatNamesAThread) {
  for (const Order order : kOrders) {
    emulator::set_order(order);
    std::vector<int> out(64);
    const std::string error = error_of([&] { run(half_barrier_kernel, 2, 64, 0, out.data()); });
    EXPECT_THAT(error, HasSubstr("waits for ever: 40 threads wait at __syncthreads, 24 in warp"));
    EXPECT_THAT(error, HasSubstr("of block ("));
    run(turn_kernel, 1, 64, 0, out.data(), out.data(), true);  // and the next launch works
  }
  emulator::set_order(Order::forward);
}

__global__ void early_end_kernel(int* out) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  const int lanes = __popc(__ballot_sync(threadIdx.x < 32 ? kAllLanes : 0xffu, 1));
  out[threadIdx.x] = lanes;
}

TEST(Emulator, ThreadsThatEndedAreNotWaitedFor) {
  std::vector<int> out(64);
  run(early_end_kernel, 1, 64, 0, out.data());
  EXPECT_EQ(out[0], 32);
  EXPECT_EQ(out[39], 8);
  EXPECT_EQ(out[40], 0);
}

__global__ void outside_mask_kernel() { __syncwarp(0x7fffffffu); }
__global__ void mixed_kernel(int* out) {
  if (threadIdx.x % 2 == 0)
    __syncwarp();
  else
    out[0] = __shfl_sync(kAllLanes, 1, 0);
}

TEST(Emulator, WarpFunctionsCalledAgainstTheRulesAreErrors) {
  std::vector<int> out(1);
  EXPECT_THAT(error_of([] { run(outside_mask_kernel, 1, 32, 0); }), HasSubstr("leaves it out"));
  EXPECT_THAT(error_of([&] { run(mixed_kernel, 1, 32, 0, out.data()); }),
              HasSubstr("another warp function"));
}

__global__ void shuffles_kernel(int* out) {
  const int x = int(threadIdx.x) + 100;
  out[threadIdx.x] = __shfl_xor_sync(kAllLanes, x, 5);
  out[threadIdx.x + 32] = __shfl_down_sync(kAllLanes, x, 3u);
  out[threadIdx.x + 64] = __shfl_up_sync(kAllLanes, x, 3u, 8);
  out[threadIdx.x + 96] = __shfl_sync(kAllLanes, x, 2, 8);
  if (threadIdx.x < 16)
    out[threadIdx.x + 128] = __shfl_xor_sync(0xffffu, x, 1);
  else
    out[threadIdx.x + 128] = int(__match_any_sync(0xffff0000u, x / 120));
}

TEST(Emulator, ShufflesAndVotesDoWhatCudaSays) {
  for (const Order order : kOrders) {
    emulator::set_order(order);
    std::vector<int> out(160);
    run(shuffles_kernel, 1, 32, 0, out.data());
    for (int i = 0; i < 32; ++i) {
      const auto at = [&](int part) { return out[std::size_t(part * 32 + i)]; };
      EXPECT_EQ(at(0), (i ^ 5) + 100);
      EXPECT_EQ(at(1), (i + 3 < 32 ? i + 3 : i) + 100);
      EXPECT_EQ(at(2), (i % 8 >= 3 ? i - 3 : i) + 100);
      EXPECT_EQ(at(3), i / 8 * 8 + 2 + 100);
      EXPECT_EQ(at(4), i < 16 ? (i ^ 1) + 100 : i < 20 ? 0x000f0000 : int(0xfff00000u));
    }
  }
  emulator::set_order(Order::forward);
}

__global__ void sums_kernel(float* out, unsigned long long* count, int* largest) {
  const float sum = block_sum(float(threadIdx.x));
  out[threadIdx.x] = block_sum(sum + 1) + warp_max(float(threadIdx.x));
  atomicAdd(count, 2ull);
  atomicMax(largest, int(threadIdx.x * 7 % 64));
}

TEST(Emulator, BlockSumsAndAtomicsCountEveryThread) {
  for (const Order order : kOrders) {
    emulator::set_order(order);
    std::vector<float> out(96);
    unsigned long long count = 0;
    int largest = -1;
    run(sums_kernel, 2, 96, 0, out.data(), &count, &largest);
    for (std::size_t i = 0; i < 96; ++i)
      EXPECT_EQ(out[i], 96.0f * (95 * 96 / 2 + 1) + float(i / 32 * 32 + 31)) << i;
    EXPECT_EQ(count, 2u * 2 * 96);
    EXPECT_EQ(largest, 63);
  }
  emulator::set_order(Order::forward);
}

TEST(Emulator, LaunchesThatCudaRefusesAreErrors) {
  std::vector<int> out(1);
  EXPECT_THROW(run(indices_kernel, 0, 32, 0, out.data()), Error);
  EXPECT_THROW(run(indices_kernel, 1, 1056, 0, out.data()), Error);
  EXPECT_THROW(run(indices_kernel, 1, 32, 228 * 1024, out.data()), Error);
}

}  // namespace
}  // namespace moe
