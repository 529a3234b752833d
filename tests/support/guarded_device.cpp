// SPDX-License-Identifier: Apache-2.0
// Stands in for the CUDA device of a program: its kernels run in the emulator, and its memory can
// be touched by them and by copies alone. Host code that reads a tensor of the device ends with a
// segmentation fault, as it would in earnest. Linked before the libraries, it takes the place of
// their stubs.
#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "core/cuda_device.h"
#include "core/error.h"
#include "kernels/cuda/cuda_backend.h"
#include "support/cuda_emulator.h"

namespace moe {
namespace {

constexpr std::size_t kBytes = std::size_t{1} << 30, kAlignment = 256;
constexpr std::size_t kPage = 4096, kLarge = std::size_t{1} << 20;

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

  /// Filled with 0xFF (NaN, -1): a kernel that skips an output is seen.
  std::byte* take(std::size_t bytes) {
    const std::size_t size = (bytes + kAlignment) / kAlignment * kAlignment;
    std::byte* block = find(size);
    if (block == nullptr) return nullptr;
    open();
    std::memset(block, 0xFF, size);
    close();
    return block;
  }
  void give(std::byte* block) {
    std::lock_guard lock(mutex_);
    const auto taken = taken_.find(block);
    const std::size_t size = taken->second;
    if (size >= kLarge) drop_pages(static_cast<std::size_t>(block - base_), size);
    free_[size].push_back(block);
    taken_.erase(taken);
  }
  std::int64_t reserved() {
    std::lock_guard lock(mutex_);
    return std::int64_t(used_);
  }

 private:
  std::byte* find(std::size_t size) {
    std::lock_guard lock(mutex_);
    std::vector<std::byte*>& free = free_[size];
    std::byte* block = nullptr;
    if (!free.empty()) {
      block = free.back();
      free.pop_back();
    } else if (used_ + size <= kBytes) {
      block = base_ + used_;
      used_ += size;
    } else {
      return nullptr;
    }
    taken_[block] = size;
    return block;
  }
  // Every change of protection goes through all pages that are there.
  void drop_pages(std::size_t offset, std::size_t size) {
    const std::size_t first = (offset + kPage - 1) / kPage * kPage;
    madvise(base_ + first, (offset + size) / kPage * kPage - first, MADV_DONTNEED);
  }
  void protect(int access) { MOE_CHECK(mprotect(base_, kBytes, access) == 0, "mprotect"); }

  std::mutex mutex_;
  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
  int users_ = 0;
  std::map<std::size_t, std::vector<std::byte*>> free_;
  std::map<std::byte*, std::size_t> taken_;
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

bool built() { return true; }
std::string why_unavailable() { return ""; }
int device_count() { return 1; }
void use_device(int) {}
int compute_capability() { return 90; }
int processors() { return 2; }
std::string device_name() { return "emulated device"; }
std::string bus_id() { return "0"; }
CUstream_st* compute_stream() { return nullptr; }
void synchronize() {}

std::byte* take(std::size_t bytes) { return memory().take(bytes); }
void give(std::byte* block) { memory().give(block); }
std::int64_t reserved_bytes() { return memory().reserved(); }
std::int64_t free_bytes() { return std::int64_t(kBytes) - memory().reserved(); }

void copy_bytes(void* dst, const void* src, std::size_t bytes) {
  const Access access;
  std::memcpy(dst, src, bytes);
}

void fill_zero(void* dst, std::size_t bytes) {
  const Access access;
  std::memset(dst, 0, bytes);
}

void mark_phase(const char*) {}

}  // namespace cuda

Backend& cuda_backend() {
  static CudaBackend backend(plain_products(nullptr), plain_attention(nullptr));
  emulator::set_memory_guard([](bool open) { open ? memory().open() : memory().close(); });
  return backend;
}

}  // namespace moe
