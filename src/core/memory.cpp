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

#include "core/cuda_device.h"
#include "core/error.h"
#include "core/readable.h"

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

/// Rounds up so that nearby sizes share blocks: at most 12.5 % is lost, and on the device, whose
/// pool cuts blocks itself, nothing.
std::size_t block_size(Device device, std::size_t bytes) {
  if (device == Device::cuda) return bytes;
  if (bytes <= 512) return (std::max(bytes, kAlign) + kAlign - 1) / kAlign * kAlign;
  const std::size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

/// Who holds how much of one device.
class Account {
 public:
  void add(std::int64_t bytes, MemoryKind kind) {
    const std::lock_guard lock(mutex_);
    const auto k = static_cast<std::size_t>(kind);
    held_.live[k] += bytes;
    held_.peak[k] = std::max(held_.peak[k], held_.live[k]);
    held_.live_total += bytes;
    held_.peak_total = std::max(held_.peak_total, held_.live_total);
  }
  MemoryAccount held() const {
    const std::lock_guard lock(mutex_);
    return held_;
  }

 private:
  mutable std::mutex mutex_;
  MemoryAccount held_;
};

/// Blocks of the CPU, kept by size.
class Arena {
 public:
  std::byte* take(std::size_t size) {
    {
      const std::lock_guard lock(mutex_);
      auto& free_blocks = free_[size];
      if (!free_blocks.empty()) {
        std::byte* block = free_blocks.back();
        free_blocks.pop_back();
        return block;
      }
      reserved_ += std::int64_t(size);
      ++system_allocations_;
    }
    return static_cast<std::byte*>(std::aligned_alloc(kAlign, size));
  }

  void give(std::byte* block, std::size_t size) {
    const std::lock_guard lock(mutex_);
    if (kCache) {
      free_[size].push_back(block);
    } else {
      reserved_ -= std::int64_t(size);
      std::free(block);
    }
  }

  void release() {
    const std::lock_guard lock(mutex_);
    for (const auto& [size, blocks] : free_) {
      reserved_ -= std::int64_t(size * blocks.size());
      for (std::byte* block : blocks) std::free(block);
    }
    free_.clear();
  }

  void describe(MemoryAccount& account) const {
    const std::lock_guard lock(mutex_);
    account.reserved = reserved_;
    account.system_allocations = system_allocations_;
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<std::size_t, std::vector<std::byte*>> free_;
  std::int64_t reserved_ = 0, system_allocations_ = 0;
};

// Never destroyed: tensors in static storage may outlive any order of destruction.
Arena& arena() {
  static Arena* instance = new Arena;
  return *instance;
}
Account& account(Device device) {
  static auto* instances = new std::array<Account, 2>;
  return (*instances)[static_cast<std::size_t>(device)];
}

std::byte* take(Device device, std::size_t size) {
  if (device == Device::cuda) return cuda::take(size);
  std::byte* block = arena().take(size);
  if (block != nullptr && poison) std::memset(block, 0xFF, size);
  return block;
}

void give(Device device, std::byte* block, std::size_t size) {
  device == Device::cuda ? cuda::give(block) : arena().give(block, size);
}

[[noreturn]] void fail_exhausted(Device device, std::size_t size, MemoryKind kind) {
  const MemoryAccount held = memory_account(device);
  std::string kinds;
  for (std::size_t k = 0; k < kMemoryKindNames.size(); ++k)
    if (held.live[k] > 0)
      kinds += str(", ", kMemoryKindNames[k], " ", readable_count(double(held.live[k])), "B");
  const bool rows = kind == MemoryKind::activations;
  throw Error(str(device == Device::cuda ? "GPU" : "host",
                  " out of memory: ", readable_count(double(size)), "B more for ",
                  kMemoryKindNames[static_cast<std::size_t>(kind)], " are not there; held now",
                  kinds.empty() ? ": nothing" : kinds,
                  rows ? ". Lower batch.micro, set parallel.recompute, or use more ranks"
                       : ". Set parallel.zero or a larger parallel.expert, or use more ranks"));
}

}  // namespace

MemoryScope::MemoryScope(MemoryKind kind) : previous_(current_kind) { current_kind = kind; }
MemoryScope::~MemoryScope() { current_kind = previous_; }

std::shared_ptr<std::byte> allocate(Device device, std::size_t bytes) {
  const std::size_t size = block_size(device, bytes);
  const MemoryKind kind = current_kind;
  std::byte* block = take(device, size);
  if (block == nullptr) fail_exhausted(device, size, kind);
  account(device).add(std::int64_t(size), kind);
  return {block, [device, size, kind](std::byte* p) {
            account(device).add(-std::int64_t(size), kind);
            give(device, p, size);
          }};
}

void copy_bytes(Device to, void* dst, Device from, const void* src, std::size_t bytes) {
  if (bytes == 0) return;
  if (to == Device::cuda || from == Device::cuda) return cuda::copy_bytes(dst, src, bytes);
  std::memcpy(dst, src, bytes);
}

void fill_zero(Device device, void* dst, std::size_t bytes) {
  if (bytes == 0) return;
  if (device == Device::cuda) return cuda::fill_zero(dst, bytes);
  std::memset(dst, 0, bytes);
}

MemoryAccount memory_account(Device device) {
  MemoryAccount held = account(device).held();
  if (device == Device::cuda) {
    held.reserved = cuda::reserved_bytes();
  } else {
    arena().describe(held);
  }
  return held;
}

void release_cached_memory() { arena().release(); }

void poison_new_memory(bool on) { poison = on; }

}  // namespace moe
