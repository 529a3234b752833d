// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string>

#include "comm/communicator.h"
#include "config/exchange_options.h"

namespace moe {

/// The hosts of a group's members. An all_to_all by way of hosts needs the same number of ranks, at
/// least two, on each of at least two hosts, and the ranks of a host one after the other.
struct HostLayout {
  int hosts = 1, ranks_per_host = 1;
  std::string obstacle;  // why all_to_all cannot go by way of hosts; empty: it can
};
/// hosts[p]: a number that stands for the host of member p.
HostLayout host_layout(std::span<const int> hosts);

/// `group`, its all_to_all by way of hosts when `choice` asks for that and its members allow it;
/// says so when they do not. host: a number that stands for this rank's host; world_rank: what
/// messages call it. Collective.
std::unique_ptr<Communicator> choose_all_to_all(std::unique_ptr<Communicator> group,
                                                AllToAll choice, int host, int world_rank);

/// A group whose all_to_all goes in two legs: between hosts, to the rank with the same place on the
/// destination's host, then within that host. A rank exchanges one message with each other host
/// instead of one with each rank there, as many times larger; the slow leg comes first, so it
/// starts at once, and rows for a busy rank enter its host through all ranks of that host. Rows,
/// their order and the checks are those of the flat all_to_all. Everything else is left to `group`.
/// members: world ranks. Collective.
std::unique_ptr<Communicator> by_way_of_hosts(std::unique_ptr<Communicator> group,
                                              int ranks_per_host, std::span<const int> members);

}  // namespace moe
