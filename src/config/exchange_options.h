// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe {

/// The road that rows take within an expert group.
enum class AllToAll : std::uint8_t {
  automatic,     // hierarchical where the group has several ranks on each of several hosts
  flat,          // from each rank to each rank
  hierarchical,  // between hosts, then within them
};

/// How the rows of tokens travel to their experts and back (docs/parallelism.md).
struct ExchangeOptions {
  std::int64_t chunks = 4;  // parts of a rank's experts whose rows travel while others compute
  AllToAll all_to_all = AllToAll::automatic;
  std::int64_t ranks_per_host = 0;  // 0: what MPI finds
};

}  // namespace moe
