// SPDX-License-Identifier: Apache-2.0
#include "core/memory.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/error.h"

namespace moe {
namespace {

constexpr std::size_t kAlign = 64;
thread_local MemoryKind current_kind = MemoryKind::activations;
std::atomic<bool> poison{false};

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCache = false;  // a cached block would hide use after free
#else
constexpr bool kCache = true;
#endif

/// Rounds up so that nearby sizes share blocks: at most 12.5 % is lost.
std::size_t block_size(std::size_t bytes) {
  if (bytes <= 512) return (std::max(bytes, kAlign) + kAlign - 1) / kAlign * kAlign;
  const std::size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

class Arena {
 public:
  std::byte* take(std::size_t size, MemoryKind kind) {
    std::byte* block = nullptr;
    {
      std::lock_guard lock(mutex_);
      auto& free_blocks = free_[size];
      if (!free_blocks.empty()) {
        block = free_blocks.back();
        free_blocks.pop_back();
      }
      count(std::int64_t(size), kind);
      if (block == nullptr) {
        account_.reserved += std::int64_t(size);
        ++account_.system_allocations;
      }
    }
    if (block == nullptr) block = static_cast<std::byte*>(std::aligned_alloc(kAlign, size));
    MOE_CHECK(block != nullptr, "out of memory: could not allocate ", size, " bytes");
    if (poison) std::memset(block, 0xFF, size);
    return block;
  }

  void give(std::byte* block, std::size_t size, MemoryKind kind) {
    std::lock_guard lock(mutex_);
    count(-std::int64_t(size), kind);
    if (kCache) {
      free_[size].push_back(block);
    } else {
      account_.reserved -= std::int64_t(size);
      std::free(block);
    }
  }

  MemoryAccount account() {
    std::lock_guard lock(mutex_);
    return account_;
  }

 private:
  void count(std::int64_t bytes, MemoryKind kind) {
    const auto k = static_cast<std::size_t>(kind);
    account_.live[k] += bytes;
    account_.peak[k] = std::max(account_.peak[k], account_.live[k]);
    account_.live_total += bytes;
    account_.peak_total = std::max(account_.peak_total, account_.live_total);
  }

  std::mutex mutex_;
  std::unordered_map<std::size_t, std::vector<std::byte*>> free_;
  MemoryAccount account_;
};

// Never destroyed: tensors in static storage may outlive any order of destruction.
Arena& arena() {
  static Arena* instance = new Arena;
  return *instance;
}

}  // namespace

MemoryScope::MemoryScope(MemoryKind kind) : previous_(current_kind) { current_kind = kind; }
MemoryScope::~MemoryScope() { current_kind = previous_; }

std::shared_ptr<std::byte> allocate(Device device, std::size_t bytes) {
  if (device == Device::cuda) return cuda::allocate(bytes);
  const std::size_t size = block_size(bytes);
  const MemoryKind kind = current_kind;
  return {arena().take(size, kind), [size, kind](std::byte* p) { arena().give(p, size, kind); }};
}

void copy_bytes(Device to, void* dst, Device from, const void* src, std::size_t bytes) {
  if (to == Device::cuda || from == Device::cuda) return cuda::copy_bytes(dst, src, bytes);
  if (bytes > 0) std::memcpy(dst, src, bytes);
}

MemoryAccount memory_account() { return arena().account(); }

void poison_new_memory(bool on) { poison = on; }

}  // namespace moe
