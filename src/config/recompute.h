// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe {

/// What a forward pass does not keep for its backward, which computes it again.
enum class Recompute : std::uint8_t {
  none,
  cheap,  // norms, and the copies of tokens' rows for their experts where these are on this rank
  block,  // everything within a layer
};

}  // namespace moe
