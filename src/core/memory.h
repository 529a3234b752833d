// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/device.h"

namespace moe {

/// What an allocation is for: the rows of the memory account that moe-train prints.
enum class MemoryKind : std::uint8_t { weights, gradients, optimizer, activations, snapshot };
inline constexpr std::array kMemoryKindNames = {"weights", "gradients", "optimizer", "activations",
                                                "snapshot"};

/// Allocations made on this thread while the scope lives count as `kind` (default: activations).
class MemoryScope {
 public:
  explicit MemoryScope(MemoryKind kind);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;

 private:
  MemoryKind previous_;
};

/// Bytes on one device, aligned to 64, from a caching arena: blocks return to it when the last
/// tensor that views them goes away, so a training step allocates nothing after warm-up. Contents
/// are undefined. Throws Error when memory is exhausted, with what holds it and what to change.
std::shared_ptr<std::byte> allocate(Device device, std::size_t bytes);

void copy_bytes(Device to, void* dst, Device from, const void* src, std::size_t bytes);
void fill_zero(Device device, void* dst, std::size_t bytes);

/// Memory of this process on one device in bytes: what tensors hold, by kind, and what was taken
/// from the system to serve them.
struct MemoryAccount {
  std::array<std::int64_t, kMemoryKindNames.size()> live{}, peak{};
  std::int64_t live_total = 0, peak_total = 0;
  std::int64_t reserved = 0;            // live blocks and cached ones
  std::int64_t system_allocations = 0;  // on the CPU: the device's pool shows only in `reserved`
};
MemoryAccount memory_account(Device device = Device::cpu);

/// Gives the CPU's cached blocks back to the system: for between two stages of work whose tensors
/// differ in size, where the blocks of one would lie idle beside those of the next.
void release_cached_memory();

/// Tests: fills every new block with 0xFF (NaN in every float type), so that a kernel that skips
/// an output is seen.
void poison_new_memory(bool on);

}  // namespace moe
