// SPDX-License-Identifier: Apache-2.0
// Stands in for the CUDA device of a program: its kernels run in the emulator, and its memory can
// be touched by them and by copies alone. Host code that reads a tensor of the device ends with a
// segmentation fault, as it would in earnest. Linked before the libraries, it takes the place of
// their stubs.
#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "core/memory.h"
#include "kernels/cuda/cuda_backend.h"
#include "support/cuda_emulator.h"

namespace moe {
namespace {

constexpr std::size_t kBytes = std::size_t{1} << 30, kAlignment = 256;

class GuardedMemory {
 public:
  GuardedMemory() {
    void* p = mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MOE_CHECK(p != MAP_FAILED, "no addresses for a guarded device");
    base_ = static_cast<std::byte*>(p);
  }

  /// Open while anybody has it open: ranks may be threads.
  void open() {
    std::lock_guard lock(mutex_);
    if (users_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    std::lock_guard lock(mutex_);
    if (--users_ == 0) protect(PROT_NONE);
  }

  std::byte* take(std::size_t size) {
    std::lock_guard lock(mutex_);
    std::vector<std::byte*>& free = free_[size];
    if (!free.empty()) {
      std::byte* block = free.back();
      free.pop_back();
      return block;
    }
    MOE_CHECK(used_ + size <= kBytes, "the guarded device has ", kBytes, " bytes");
    used_ += size;
    return base_ + used_ - size;
  }
  void give(std::byte* block, std::size_t size) {
    std::lock_guard lock(mutex_);
    free_[size].push_back(block);
  }

 private:
  void protect(int access) { MOE_CHECK(mprotect(base_, kBytes, access) == 0, "mprotect"); }

  std::mutex mutex_;
  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
  int users_ = 0;
  std::map<std::size_t, std::vector<std::byte*>> free_;
};

GuardedMemory& memory() {
  static auto* instance = new GuardedMemory;  // tensors in static storage may outlive the rest
  return *instance;
}

struct Access {
  Access() { memory().open(); }
  ~Access() { memory().close(); }
};

}  // namespace

bool cuda_available() { return true; }

namespace cuda {

std::shared_ptr<std::byte> allocate(std::size_t bytes) {
  const std::size_t size = (bytes + kAlignment) / kAlignment * kAlignment;
  std::byte* block = memory().take(size);
  const Access access;
  std::memset(block, 0xFF, size);  // NaN, -1: a kernel that skips an output is seen
  return {block, [size](std::byte* p) { memory().give(p, size); }};
}

void copy_bytes(void* dst, const void* src, std::size_t bytes) {
  const Access access;
  if (bytes > 0) std::memcpy(dst, src, bytes);
}

}  // namespace cuda

Backend& cuda_backend() {
  static CudaBackend backend(plain_products(nullptr));
  emulator::set_memory_guard([](bool open) { open ? memory().open() : memory().close(); });
  return backend;
}

}  // namespace moe
