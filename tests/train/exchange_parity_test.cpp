// SPDX-License-Identifier: Apache-2.0
// The roads that tokens take to their experts change no bit of training.
#include <gtest/gtest.h>

#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;

class SevenExperts : public ::testing::TestWithParam<DType> {};

TEST_P(SevenExperts, OnTwoRanksEqualOneProcessWithAnyChunks) {
  const ModelConfig model = seven_experts();
  const EngineOptions options = parity_options(GetParam());
  const Outcome want = reference_outcome(model, options);
  for (const std::int64_t chunks : {1, 2, 4})
    run_ranks(4, [&](Communicator& world) {
      EXPECT_EQ(differences(run_job(world, 2, model, options, {.chunks = chunks}), want,
                            tolerance_of(GetParam())),
                "")
          << chunks << " chunks, rank " << world.rank();
    });
}
INSTANTIATE_TEST_SUITE_P(Types, SevenExperts, ::testing::Values(DType::f64, DType::f32),
                         [](const auto& test) { return std::string(name(test.param)); });

TEST(ExchangeParity, ChunksAndRecomputeChangeNoBit) {
  for (const Recompute recompute : {Recompute::none, Recompute::cheap, Recompute::block}) {
    EngineOptions options = parity_options(DType::f32);
    options.recompute = recompute;
    run_ranks(4, [&](Communicator& world) {
      const Outcome whole = run_job(world, 2, parity_model(), options, {.chunks = 1});
      for (const std::int64_t chunks : {2, 4})
        EXPECT_EQ(differences(run_job(world, 2, parity_model(), options, {.chunks = chunks}), whole,
                              {0, 0, 0}),
                  "")
            << chunks << " chunks";
    });
  }
}

/// Two "hosts" of two ranks, which hold 2, 2, 2 and 1 of seven experts.
TEST(ExchangeParity, TheWayByHostsChangesNoBit) {
  const EngineOptions options = parity_options(DType::f32);
  run_ranks(4, [&](Communicator& world) {
    const Outcome flat = run_job(world, 4, seven_experts(), options, {.chunks = 1});
    for (const std::int64_t chunks : {1, 2}) {
      const ExchangeOptions hosts = {
          .chunks = chunks, .all_to_all = AllToAll::hierarchical, .ranks_per_host = 2};
      EXPECT_EQ(differences(run_job(world, 4, seven_experts(), options, hosts), flat, {0, 0, 0}),
                "")
          << chunks << " chunks";
    }
  });
}

}  // namespace
}  // namespace moe
