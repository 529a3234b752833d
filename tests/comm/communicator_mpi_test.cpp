// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "comm/collective_log.h"
#include "comm/communicator_checks.h"
#include "support/mpi_world.h"

namespace moe {
namespace {

class MpiComm : public testing::TestWithParam<checks::Check> {};

TEST_P(MpiComm, Does) { GetParam().run(mpi_world().world()); }

INSTANTIATE_TEST_SUITE_P(Mpi, MpiComm, testing::ValuesIn(checks::kChecks),
                         [](const auto& test) { return test.param.name; });

/// The same by way of "hosts" of two ranks each.
class HierarchicalMpiComm : public testing::TestWithParam<checks::Check> {};

TEST_P(HierarchicalMpiComm, Does) {
  if (mpi_world().world().size() % 2 != 0) GTEST_SKIP() << "needs an even number of ranks";
  GetParam().run(*checks::by_way_of_hosts_of(mpi_world().world(), 2));
}

INSTANTIATE_TEST_SUITE_P(Mpi, HierarchicalMpiComm, testing::ValuesIn(checks::kChecks),
                         [](const auto& test) { return test.param.name; });

TEST(MpiWorld, KnowsTheRanksOfThisHost) {
  EXPECT_EQ(mpi_world().local_ranks(), mpi_world().world().size());
  EXPECT_EQ(mpi_world().host(), 0);
}

TEST(MpiComm, ReducesAndBroadcastsLargeTensorsInPieces) {
  Communicator& world = mpi_world().world();
  const std::int64_t n = (std::int64_t{1} << 24) + 3;  // one piece and a little
  const Tensor sum = checks::filled({n}, DType::bf16, [&](auto i) { return i % 5; });
  const Tensor copy =
      checks::filled({n}, DType::u8, [&](auto i) { return world.rank() == 0 ? i % 251 : 0; });
  Pending reduced = world.all_reduce(sum, ReduceOp::sum);
  Pending sent = world.broadcast(copy, 0);
  sent.wait();
  reduced.wait();
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    wrong += float(sum.data<bf16>()[i]) != float(i % 5 * world.size());
    wrong += copy.data<std::uint8_t>()[i] != i % 251;
  }
  EXPECT_EQ(wrong, 0);
}

/// Payloads of an exchange leave when its counts have arrived: somebody must notice.
TEST(MpiComm, CollectivesMoveWhileRanksCompute) {
  Communicator& world = mpi_world().world();
  const checks::Exchange first(world, DType::f32, 50000, [](int, int) { return 3; });
  const checks::Exchange second(world, DType::f32, 64, [](int from, int to) { return from + to; });
  world.barrier().wait();
  checks::stagger(world, 0);
  Pending a = first.start(world), b = second.start(world);
  const std::int64_t started = collective_summary().started;
  const auto late = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (collective_summary().finished < started && std::chrono::steady_clock::now() < late)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(collective_summary().finished, started);
  a.wait();
  b.wait();
  first.check();
  second.check();
}

}  // namespace
}  // namespace moe
