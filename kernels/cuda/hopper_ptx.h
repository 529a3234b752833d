// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/cuda/gpu.h"

// One function for each instruction of PTX that kernels of Hopper need (PTX ISA 9.0, "mbarrier",
// "cp.async.bulk.tensor", "wgmma"). Included by hopper.h.

namespace moe::hopper {

// ---- host ---------------------------------------------------------------------------------------

/// Describes an array of bf16 in the device's memory to the copy engine.
using TensorMap = CUtensorMap;

/// size: elements, innermost dimension first; stride: bytes from one index to the next of the
/// second and third dimension, multiples of 16; box: elements of one load_box(). What lies outside
/// of the array is loaded as zeros. Lines of 128 bytes are swizzled.
inline TensorMap tensor_map(const void* base, const std::uint64_t (&size)[3],
                            const std::uint64_t (&stride)[2], const std::uint32_t (&box)[3]) {
  // The driver is no library of this program, which also starts where there is none.
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                cudaEnableDefault, &found));
    MOE_CHECK(found == cudaDriverEntryPointSuccess, "the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  constexpr std::uint32_t kDense[3] = {1, 1, 1};
  TensorMap map;
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(base), size, stride, box,
             kDense, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  MOE_CHECK(status == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error ", int(status), " for ", size[0],
            " x ", size[1], " x ", size[2], " elements in boxes of ", box[0], " x ", box[1]);
  return map;
}

// ---- shared memory and barriers -----------------------------------------------------------------

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

/// Completes a phase when `arrivals` threads have come and all expected bytes are there.
using Barrier = std::uint64_t;

__device__ __forceinline__ void init_barrier(Barrier* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}
/// Shows initialised barriers to the copy engine; before the block's other threads use them comes
/// __syncthreads().
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
/// Arrives, and lets the phase wait for `bytes` more of copies.
__device__ __forceinline__ void arrive_expecting(Barrier* barrier, unsigned bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
/// Until the phase of this parity has completed. Phases begin with parity 0; that before the first
/// counts as completed.
__device__ __forceinline__ void wait(Barrier* barrier, unsigned parity) {
  unsigned done = 0;
  while (done == 0)
    asm volatile(
        "{\n"
        ".reg .pred complete;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 complete, [%1], %2;\n"
        "selp.u32 %0, 1, 0, complete;\n"
        "}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
}

/// Begins to copy the box whose first element is (x, y, z) to `to`, aligned to 1024 bytes; its
/// bytes count for `barrier`.
__device__ __forceinline__ void load_box(void* to, const TensorMap& map, Barrier* barrier, int x,
                                         int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

/// Shows what this thread wrote to shared memory to the tensor cores, after a barrier.
__device__ __forceinline__ void publish_shared_writes() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Waits for `threads` threads, those that call it with this number (1 to 15).
__device__ __forceinline__ void meet(unsigned number, unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// ---- products -----------------------------------------------------------------------------------

/// Hands registers of this warpgroup back, or takes them, so that a thread has kRegisters.
template <unsigned kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <unsigned kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Before the first multiply() of a group: sums that the threads wrote are seen by it.
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until at most kPending groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// multiply(): sum += a b, a: [64, 16], b: [16, n] of bf16 by their operand(), with all 128 threads
// of a warpgroup. Thread t holds, at sum[4 j + 2 i + c], row 16 (t / 32) + (t % 32) / 4 + 8 i and
// column 8 j + 2 (t % 4) + c. Begins only; sums belong to it until wait_products().

#define SUMS_8(i)                                                                       \
  "+f"(sum[i]), "+f"(sum[i + 1]), "+f"(sum[i + 2]), "+f"(sum[i + 3]), "+f"(sum[i + 4]), \
      "+f"(sum[i + 5]), "+f"(sum[i + 6]), "+f"(sum[i + 7])

template <Major kA, Major kB>
__device__ __forceinline__ void multiply(float (&sum)[128], std::uint64_t a, std::uint64_t b) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "
      "%127 "
      "}, %128, %129, add, 1, 1, %131, %132;\n}"
      : SUMS_8(0), SUMS_8(8), SUMS_8(16), SUMS_8(24), SUMS_8(32), SUMS_8(40), SUMS_8(48),
        SUMS_8(56), SUMS_8(64), SUMS_8(72), SUMS_8(80), SUMS_8(88), SUMS_8(96), SUMS_8(104),
        SUMS_8(112), SUMS_8(120)
      : "l"(a), "l"(b), "r"(1), "n"(int(kA == Major::mn)), "n"(int(kB == Major::mn)));
}

template <Major kA, Major kB>
__device__ __forceinline__ void multiply(float (&sum)[88], std::uint64_t a, std::uint64_t b) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %90, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n176k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87 "
      "}, %88, %89, add, 1, 1, %91, %92;\n}"
      : SUMS_8(0), SUMS_8(8), SUMS_8(16), SUMS_8(24), SUMS_8(32), SUMS_8(40), SUMS_8(48),
        SUMS_8(56), SUMS_8(64), SUMS_8(72), SUMS_8(80)
      : "l"(a), "l"(b), "r"(1), "n"(int(kA == Major::mn)), "n"(int(kB == Major::mn)));
}

#undef SUMS_8

}  // namespace moe::hopper
