// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moe {

/// Items put into bins: bin b holds items[begins[b]] ... items[begins[b + 1] - 1].
struct Bins {
  std::vector<std::int64_t> items;
  std::vector<std::int64_t> begins;

  std::int64_t count() const { return std::int64_t(begins.size()) - 1; }
  std::span<const std::int64_t> bin(std::int64_t b) const {
    return std::span(items).subspan(
        std::size_t(begins[std::size_t(b)]),
        std::size_t(begins[std::size_t(b) + 1] - begins[std::size_t(b)]));
  }
};

/// Best-fit decreasing: from the largest item to the smallest (equal ones in order), each goes to
/// the fullest bin that has room for it, or to a new one. sizes[i] lies in [1, capacity]. Time and
/// memory are linear in the number of items. (Johnson et al. 1974: at most 11/9 of the fewest bins,
/// and one; for documents in sequences: Ding et al. 2024)
Bins best_fit(std::span<const std::int32_t> sizes, std::int32_t capacity);

}  // namespace moe
