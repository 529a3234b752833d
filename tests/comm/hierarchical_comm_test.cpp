// SPDX-License-Identifier: Apache-2.0
#include "comm/hierarchical_comm.h"

#include "comm/communicator_checks.h"
#include "comm/process_grid.h"

namespace moe {
namespace {

using testing::HasSubstr;

struct Hosts {
  int ranks, per_host;
};

class HierarchicalComm : public testing::TestWithParam<std::tuple<Hosts, checks::Check>> {};

TEST_P(HierarchicalComm, Does) {
  const auto [hosts, check] = GetParam();
  run_ranks(hosts.ranks, [&](Communicator& world) {
    check.run(*checks::by_way_of_hosts_of(world, hosts.per_host));
  });
}

INSTANTIATE_TEST_SUITE_P(Hosts, HierarchicalComm,
                         testing::Combine(testing::Values(Hosts{4, 2}, Hosts{6, 2}, Hosts{6, 3},
                                                          Hosts{2, 1}, Hosts{2, 2}),
                                          testing::ValuesIn(checks::kChecks)),
                         [](const auto& test) {
                           const Hosts hosts = std::get<0>(test.param);
                           return str(std::get<1>(test.param).name, "On",
                                      hosts.ranks / hosts.per_host, "HostsOf", hosts.per_host);
                         });

/// Ranks that start many exchanges at once and wait in different orders.
TEST(HierarchicalCommStress, ExchangesInFlightKeepApart) {
  run_ranks(4, [](Communicator& world) {
    const auto group = checks::by_way_of_hosts_of(world, 2);
    for (int round = 0; round < 10; ++round) {
      std::vector<checks::Exchange> all;
      std::vector<Pending> pending;
      for (int i = 0; i < 6; ++i)
        all.emplace_back(*group, DType::f32, 1 + i, [i, round](int from, int to) {
          return (from * 3 + to * 5 + i + round) % 4;
        });
      checks::stagger(*group, round);
      for (const auto& exchange : all) pending.push_back(exchange.start(*group));
      for (std::size_t i = 0; i < all.size(); ++i)
        pending[(i * 5 + std::size_t(world.rank())) % all.size()].wait();
      for (const auto& exchange : all) exchange.check();
    }
  });
}

TEST(HierarchicalCommStress, ARankThatFailsEndsTheOthers) {
  const std::string error = checks::error_of([] {
    run_ranks(4, [](Communicator& world) {
      const auto group = checks::by_way_of_hosts_of(world, 2);
      const checks::Exchange a(*group, DType::f32, 2, [](int, int) { return 1; });
      Pending first = a.start(*group), second;
      if (world.rank() == 3) throw Error("out of ideas");
      second = a.start(*group);
      first.wait();
      second.wait();
    });
  });
  EXPECT_EQ(error, "rank 3: out of ideas");
}

std::string obstacle(const std::vector<int>& hosts) { return host_layout(hosts).obstacle; }

TEST(HostLayout, NeedsTheSameSeveralConsecutiveRanksOnSeveralHosts) {
  const HostLayout good = host_layout(std::vector<int>{7, 7, 3, 3, 5, 5});
  EXPECT_EQ(good.obstacle, "");
  EXPECT_EQ(good.hosts, 3);
  EXPECT_EQ(good.ranks_per_host, 2);
  EXPECT_THAT(obstacle({0, 0, 0}), HasSubstr("on one host"));
  EXPECT_THAT(obstacle({0, 1, 2}), HasSubstr("one rank on each host"));
  EXPECT_THAT(obstacle({0, 0, 1}), HasSubstr("different numbers"));
  EXPECT_THAT(obstacle({0, 0, 0, 1}), HasSubstr("different numbers"));
  EXPECT_THAT(obstacle({0, 1, 0, 1}), HasSubstr("do not follow each other"));
  EXPECT_THAT(obstacle({0, 1, 1, 0}), HasSubstr("do not follow each other"));
}

TEST(ChooseAllToAll, FollowsTheHostsAndTheChoice) {
  run_ranks(4, [](Communicator& world) {
    const auto is_hierarchical = [&](AllToAll choice, int host) {
      auto group = world.split(0, world.rank());
      const Communicator* plain = group.get();
      group = choose_all_to_all(std::move(group), choice, host, world.rank());
      const checks::Exchange rows(*group, DType::f32, 2,
                                  [](int from, int to) { return from + to; });
      rows.start(*group).wait();
      rows.check();
      return group.get() != plain;
    };
    EXPECT_TRUE(is_hierarchical(AllToAll::automatic, world.rank() / 2));
    EXPECT_TRUE(is_hierarchical(AllToAll::hierarchical, world.rank() / 2));
    EXPECT_FALSE(is_hierarchical(AllToAll::flat, world.rank() / 2));
    EXPECT_FALSE(is_hierarchical(AllToAll::automatic, 0));
    EXPECT_FALSE(is_hierarchical(AllToAll::hierarchical, world.rank()));
    EXPECT_FALSE(is_hierarchical(AllToAll::automatic, world.rank() / 3));  // uneven: falls back
  });
}

}  // namespace
}  // namespace moe
