// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moe {

/// Assigns every item to one bin such that bin e holds exactly sizes[e] items and the sum of costs
/// is the least possible. costs: [items, bins] row-major; |cost| < 2^60 / items. sizes sum to the
/// number of items.
///
/// `prices` (one per bin) is both a warm start and a result: on return every item sits in a bin of
/// least cost + price, which proves that the assignment is optimal. Any values are a valid start;
/// those of a similar problem make it fast.
///
/// Successive shortest paths on the residual graph contracted to the bins, where the arc a -> b
/// costs what moving the cheapest item from a to b adds (Ahuja, Magnanti, Orlin 1993, §9.7).
/// Deterministic: ties go to the lowest bin, then to the lowest item.
std::vector<std::int32_t> balanced_assignment(std::span<const std::int64_t> costs,
                                              std::span<const std::int64_t> sizes,
                                              std::vector<std::int64_t>& prices);

}  // namespace moe
