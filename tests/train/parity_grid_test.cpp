// SPDX-License-Identifier: Apache-2.0
// Every combination of what may change how a step is computed, and nothing of what it computes.
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;

struct Layout {
  int ep, dp;
};

class ParityGrid : public ::testing::TestWithParam<std::tuple<Layout, bool, Recompute>> {};

/// x chunks 1, 2, 4 (and by way of hosts) x accumulation x capacity (rows of documents with it, of
/// one document without), with uneven padding.
TEST_P(ParityGrid, EveryGradientAndTheWeightsOfThreeStepsEqualOneProcess) {
  const auto [layout, zero, recompute] = GetParam();
  EngineOptions options = parity_options(DType::f64);
  options.zero = zero;
  std::vector<ExchangeOptions> exchanges = {{.chunks = 1}, {.chunks = 2}, {.chunks = 4}};
  if (layout.ep == 4)
    exchanges.push_back({.chunks = 2, .all_to_all = AllToAll::hierarchical, .ranks_per_host = 2});
  for (const double capacity : {0.0, 1.0}) {
    options.router.capacity_factor = capacity;
    options.recompute = Recompute::none;
    options.micro_batch = 8;
    const bool documents = capacity > 0;
    const Outcome want = reference_outcome(seven_experts(), options, documents);
    ASSERT_EQ(want.first.routing.dropped > 0, capacity > 0);
    options.recompute = recompute;
    for (const std::int64_t accumulation : {1, 2, 4})
      for (const ExchangeOptions& exchange : exchanges) {
        const int ranks = layout.ep * layout.dp;
        if (8 / ranks % accumulation != 0) continue;
        options.micro_batch = 8 / ranks / accumulation;
        run_ranks(ranks, [&](Communicator& world) {
          EXPECT_EQ(
              differences(run_job(world, layout.ep, seven_experts(), options, exchange, documents),
                          want, tolerance_of(DType::f64)),
              "")
              << exchange.chunks << " chunks, accumulation " << accumulation << ", capacity "
              << capacity << ", rank " << world.rank();
        });
      }
  }
}

std::string grid_name(const ::testing::TestParamInfo<ParityGrid::ParamType>& test) {
  const auto [layout, zero, recompute] = test.param;
  constexpr std::array kNames = {"none", "cheap", "block"};
  return str("EP", layout.ep, "_DP", layout.dp, zero ? "_zero_" : "_",
             kNames[std::size_t(recompute)]);
}
INSTANTIATE_TEST_SUITE_P(
    Grid, ParityGrid,
    ::testing::Combine(::testing::Values(Layout{2, 1}, Layout{1, 2}, Layout{2, 2}, Layout{4, 1}),
                       ::testing::Bool(),
                       ::testing::Values(Recompute::none, Recompute::cheap, Recompute::block)),
    grid_name);

}  // namespace
}  // namespace moe
