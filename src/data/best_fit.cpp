// SPDX-License-Identifier: Apache-2.0
#include "data/best_fit.h"

#include <algorithm>
#include <bit>

#include "core/error.h"

namespace moe {
namespace {

/// Bins by the room that is left in them.
class Room {
 public:
  explicit Room(std::int32_t capacity)
      : bins_(std::size_t(capacity) + 1), any_(std::size_t(capacity) / 64 + 1) {}

  void put(std::int64_t bin, std::int32_t left) {
    if (left == 0) return;
    bins_[std::size_t(left)].push_back(bin);
    any_[std::size_t(left) / 64] |= std::uint64_t{1} << (left % 64);
  }

  /// Takes out a bin with the least room that is enough; -1: there is none.
  std::int64_t take(std::int32_t size, std::int32_t& left) {
    std::size_t word = std::size_t(size) / 64;
    std::uint64_t bits = any_[word] & (~std::uint64_t{0} << (size % 64));
    while (bits == 0)
      if (++word == any_.size())
        return -1;
      else
        bits = any_[word];
    left = std::int32_t(word * 64) + std::countr_zero(bits);
    std::vector<std::int64_t>& bins = bins_[std::size_t(left)];
    const std::int64_t bin = bins.back();
    bins.pop_back();
    if (bins.empty()) any_[word] &= ~(std::uint64_t{1} << (left % 64));
    return bin;
  }

 private:
  std::vector<std::vector<std::int64_t>> bins_;
  std::vector<std::uint64_t> any_;  // bit r: some bin has room r
};

/// Indices from the largest size to the smallest, equal ones in order.
std::vector<std::int64_t> descending(std::span<const std::int32_t> sizes, std::int32_t capacity) {
  std::vector<std::int64_t> begins(std::size_t(capacity) + 2);
  for (const std::int32_t size : sizes) {
    MOE_CHECK(size >= 1 && size <= capacity, "an item of ", size, " for bins of ", capacity);
    ++begins[std::size_t(capacity - size) + 1];
  }
  for (std::size_t i = 1; i < begins.size(); ++i) begins[i] += begins[i - 1];
  std::vector<std::int64_t> order(sizes.size());
  for (std::size_t i = 0; i < sizes.size(); ++i)
    order[std::size_t(begins[std::size_t(capacity - sizes[i])]++)] = std::int64_t(i);
  return order;
}

}  // namespace

Bins best_fit(std::span<const std::int32_t> sizes, std::int32_t capacity) {
  const std::vector<std::int64_t> order = descending(sizes, capacity);
  Room room(capacity);
  std::vector<std::int64_t> bin_of(sizes.size());
  std::vector<std::int64_t> filled;  // items of each bin
  for (const std::int64_t item : order) {
    const std::int32_t size = sizes[std::size_t(item)];
    std::int32_t left = capacity;
    std::int64_t bin = room.take(size, left);
    if (bin < 0) {
      bin = std::int64_t(filled.size());
      filled.push_back(0);
      left = capacity;
    }
    bin_of[std::size_t(item)] = bin;
    ++filled[std::size_t(bin)];
    room.put(bin, left - size);
  }
  Bins bins{std::vector<std::int64_t>(sizes.size()), {0}};
  bins.begins.reserve(filled.size() + 1);
  for (const std::int64_t n : filled) bins.begins.push_back(bins.begins.back() + n);
  std::vector<std::int64_t> next(bins.begins.begin(), bins.begins.end() - 1);
  for (const std::int64_t item : order)
    bins.items[std::size_t(next[std::size_t(bin_of[std::size_t(item)])]++)] = item;
  return bins;
}

}  // namespace moe
