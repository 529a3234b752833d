// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>

#include "core/cuda_check.h"
#include "core/cuda_device.h"

namespace moe {
namespace {

/// Pinned memory through which everything travels between host and device: copies from and to it
/// need not wait for each other, and small ones, the only ones within a step, never make the host
/// wait, until all slots are on their way.
class Staging {
 public:
  explicit Staging(cudaStream_t stream) : stream_(stream) {
    for (Slot& slot : slots_) {
      CUDA_CHECK(cudaMallocHost(reinterpret_cast<void**>(&slot.bytes), kSlotBytes));
      CUDA_CHECK(cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming));
    }
  }

  void to_device(std::byte* dst, const std::byte* src, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    for (std::size_t at = 0; at < bytes; at += kSlotBytes) {
      const std::size_t n = std::min(kSlotBytes, bytes - at);
      const Slot& slot = next();
      CUDA_CHECK(cudaEventSynchronize(slot.done));
      std::memcpy(slot.bytes, src + at, n);
      CUDA_CHECK(cudaMemcpyAsync(dst + at, slot.bytes, n, cudaMemcpyHostToDevice, stream_));
      CUDA_CHECK(cudaEventRecord(slot.done, stream_));
    }
  }

  void to_host(std::byte* dst, const std::byte* src, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const std::size_t pieces = (bytes + kSlotBytes - 1) / kSlotBytes;
    const auto length = [&](std::size_t i) { return std::min(kSlotBytes, bytes - i * kSlotBytes); };
    std::array<const Slot*, kSlots> under_way{};
    for (std::size_t i = 0; i < pieces + kSlots; ++i) {
      const Slot*& slot = under_way[i % kSlots];
      if (slot != nullptr) {
        const std::size_t arrived = i - kSlots;
        CUDA_CHECK(cudaEventSynchronize(slot->done));
        std::memcpy(dst + arrived * kSlotBytes, slot->bytes, length(arrived));
        slot = nullptr;
      }
      if (i >= pieces) continue;
      slot = &next();
      CUDA_CHECK(cudaEventSynchronize(slot->done));
      CUDA_CHECK(cudaMemcpyAsync(slot->bytes, src + i * kSlotBytes, length(i),
                                 cudaMemcpyDeviceToHost, stream_));
      CUDA_CHECK(cudaEventRecord(slot->done, stream_));
    }
  }

 private:
  static constexpr std::size_t kSlotBytes = std::size_t{1} << 20, kSlots = 16;
  struct Slot {
    std::byte* bytes = nullptr;
    cudaEvent_t done = nullptr;
  };

  const Slot& next() { return slots_[next_++ % kSlots]; }

  const cudaStream_t stream_;
  std::mutex mutex_;
  std::array<Slot, kSlots> slots_;
  std::size_t next_ = 0;
};

/// Made by the first use, never destroyed: tensors in static storage may outlive any order of
/// destruction, and the driver frees everything when the process ends.
struct Process {
  explicit Process(int device) : index(device) {
    CUDA_CHECK(cudaSetDevice(device));
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    cudaMemPoolProps wanted{};
    wanted.allocType = cudaMemAllocationTypePinned;
    wanted.location = {.type = cudaMemLocationTypeDevice, .id = device};
    CUDA_CHECK(cudaMemPoolCreate(&pool, &wanted));
    // The pool keeps what it has: a step after warm-up takes nothing from the device.
    std::uint64_t keep = UINT64_MAX;
    CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
    staging = new Staging(stream);
  }

  int index;
  cudaStream_t stream = nullptr;
  cudaMemPool_t pool = nullptr;
  Staging* staging = nullptr;
};

std::mutex process_mutex;
int wanted_device = 0;
Process* the_process = nullptr;

Process& process() {
  thread_local bool on_device = false;
  static Process& instance = []() -> Process& {
    const std::lock_guard lock(process_mutex);
    if (!cuda_available()) throw Error(cuda::why_unavailable());
    the_process = new Process(wanted_device);
    return *the_process;
  }();
  if (!on_device) {
    CUDA_CHECK(cudaSetDevice(instance.index));
    on_device = true;
  }
  return instance;
}

int attribute(cudaDeviceAttr which) {
  int value = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&value, which, process().index));
  return value;
}

std::string version(int v) { return str(v / 1000, ".", v % 1000 / 10); }

bool on_host(const void* p) {
  cudaPointerAttributes a{};
  CUDA_CHECK(cudaPointerGetAttributes(&a, p));
  return a.type != cudaMemoryTypeDevice;
}

}  // namespace

bool cuda_available() { return cuda::device_count() > 0; }

namespace cuda {

bool built() { return true; }

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  static_cast<void>(cudaGetLastError());  // an answer, not a failure of what comes next
  return 0;
}

std::string why_unavailable() {
  int count = 0, driver = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  static_cast<void>(cudaGetLastError());
  if (status == cudaSuccess && count > 0) return "";
  CUDA_CHECK(cudaDriverGetVersion(&driver));
  if (driver == 0)
    return "no NVIDIA driver on this machine (libcuda.so.1 is not there, or not for this user)";
  if (status == cudaErrorInsufficientDriver)
    return str("the NVIDIA driver serves CUDA up to ", version(driver), ", this build needs ",
               version(CUDART_VERSION), ": update the driver");
  if (status == cudaErrorNoDevice || count == 0)
    return "the NVIDIA driver sees no device; is CUDA_VISIBLE_DEVICES right?";
  return str("CUDA cannot start: ", cudaGetErrorString(status));
}

void use_device(int index) {
  const std::lock_guard lock(process_mutex);
  MOE_CHECK(the_process == nullptr || the_process->index == index, "device ", index,
            " asked for after device ", the_process->index, " was used");
  wanted_device = index;
}

int compute_capability() {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
         attribute(cudaDevAttrComputeCapabilityMinor);
}

int processors() { return attribute(cudaDevAttrMultiProcessorCount); }

std::string device_name() {
  cudaDeviceProp properties{};
  CUDA_CHECK(cudaGetDeviceProperties(&properties, process().index));
  return properties.name;
}

std::string bus_id() {
  char id[32] = "";
  CUDA_CHECK(cudaDeviceGetPCIBusId(id, sizeof id, process().index));
  return id;
}

CUstream_st* compute_stream() { return process().stream; }

void synchronize() { CUDA_CHECK(cudaStreamSynchronize(compute_stream())); }

std::byte* take(std::size_t bytes) {
  Process& p = process();
  void* block = nullptr;
  // No block has no bytes: an empty tensor is defined.
  const std::size_t size = std::max<std::size_t>(bytes, 1);
  cudaError_t status = cudaMallocFromPoolAsync(&block, size, p.pool, p.stream);
  if (status == cudaErrorMemoryAllocation) {
    // What the pool holds may lie in pieces that are too small: hand them back, ask once more.
    static_cast<void>(cudaGetLastError());
    CUDA_CHECK(cudaStreamSynchronize(p.stream));
    CUDA_CHECK(cudaMemPoolTrimTo(p.pool, 0));
    status = cudaMallocFromPoolAsync(&block, size, p.pool, p.stream);
  }
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }
  CUDA_CHECK(status);
  return static_cast<std::byte*>(block);
}

void give(std::byte* block) {
  // Fails only once the process ends, when everything goes back anyway.
  static_cast<void>(cudaFreeAsync(block, process().stream));
}

std::int64_t reserved_bytes() {
  std::uint64_t bytes = 0;
  CUDA_CHECK(cudaMemPoolGetAttribute(process().pool, cudaMemPoolAttrReservedMemCurrent, &bytes));
  return std::int64_t(bytes);
}

std::int64_t free_bytes() {
  static_cast<void>(process());
  std::size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return std::int64_t(free);
}

void copy_bytes(void* dst, const void* src, std::size_t bytes) {
  if (bytes == 0) return;
  Process& p = process();
  if (on_host(src)) {
    p.staging->to_device(static_cast<std::byte*>(dst), static_cast<const std::byte*>(src), bytes);
  } else if (on_host(dst)) {
    p.staging->to_host(static_cast<std::byte*>(dst), static_cast<const std::byte*>(src), bytes);
  } else {
    CUDA_CHECK(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, p.stream));
  }
}

void fill_zero(void* dst, std::size_t bytes) {
  CUDA_CHECK(cudaMemsetAsync(dst, 0, bytes, compute_stream()));
}

void mark_phase(const char* name) {
  thread_local bool open = false;
  if (open) nvtxRangePop();
  nvtxRangePushA(name);
  open = true;
}

}  // namespace cuda
}  // namespace moe
