// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe {

/// How tensors on a device travel between ranks.
enum class Transport : std::uint8_t {
  automatic,  // by NCCL where each rank has a device of its own, else by way of host memory
  nccl,
  host,
};

}  // namespace moe
