// SPDX-License-Identifier: Apache-2.0
#include "comm/process_grid.h"

#include <algorithm>
#include <vector>

namespace moe {

ProcessGrid::ProcessGrid(Communicator& world, int ep, const ExchangeOptions& exchange)
    : world_(world), exchange_(exchange) {
  std::vector<int> choices;
  for (int n = 1; n <= world.size(); ++n)
    if (world.size() % n == 0) choices.push_back(n);
  MOE_REQUIRE(ep >= 1 && world.size() % ep == 0, "parallel.expert is ", ep,
              ", which does not divide the ", world.size(), world.size() == 1 ? " rank" : " ranks",
              ": choose ", join(choices, ", "));
  const int data_rank = world.rank() / ep, expert_rank = world.rank() % ep;
  expert_ = world.split(data_rank, expert_rank);
  data_ = world.split(expert_rank, data_rank);
}

Share share_of(std::int64_t count, int rank, int size) {
  MOE_CHECK(count >= 0 && rank >= 0 && rank < size, "share of ", count, " things for rank ", rank,
            " of ", size);
  const std::int64_t each = count / size, more = count % size;
  return {rank * each + std::min<std::int64_t>(rank, more), each + (rank < more ? 1 : 0)};
}

}  // namespace moe
