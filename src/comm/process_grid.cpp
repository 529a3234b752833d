// SPDX-License-Identifier: Apache-2.0
#include "comm/process_grid.h"

#include <algorithm>
#include <vector>

#include "comm/hierarchical_comm.h"

namespace moe {

void require_grid(int world, int ep) {
  std::vector<int> choices;
  for (int n = 1; n <= world; ++n)
    if (world % n == 0) choices.push_back(n);
  MOE_REQUIRE(ep >= 1 && world % ep == 0, "parallel.expert is ", ep, ", which does not divide the ",
              world, world == 1 ? " rank" : " ranks", ": choose ", join(choices, ", "));
}

ProcessGrid::ProcessGrid(Communicator& world, int ep, const ExchangeOptions& exchange, int host)
    : world_(world), exchange_(exchange) {
  require_grid(world.size(), ep);
  const int data_rank = world.rank() / ep, expert_rank = world.rank() % ep;
  if (exchange.ranks_per_host > 0) host = world.rank() / int(exchange.ranks_per_host);
  expert_ = choose_all_to_all(world.split(data_rank, expert_rank), exchange.all_to_all, host,
                              world.rank());
  data_ = world.split(expert_rank, data_rank);
}

Share share_of(std::int64_t count, int rank, int size) {
  MOE_CHECK(count >= 0 && rank >= 0 && rank < size, "share of ", count, " things for rank ", rank,
            " of ", size);
  const std::int64_t each = count / size, more = count % size;
  return {rank * each + std::min<std::int64_t>(rank, more), each + (rank < more ? 1 : 0)};
}

}  // namespace moe
