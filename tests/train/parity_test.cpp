// SPDX-License-Identifier: Apache-2.0
// Every EP x DP layout gives the gradients of one process.
#include <gtest/gtest.h>

#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;

struct Layout {
  int ep, dp;
};

void expect_parity(const Layout& layout, const ModelConfig& config, const EngineOptions& options) {
  const Outcome want = reference_outcome(config, options);
  run_ranks(layout.ep * layout.dp, [&](Communicator& world) {
    const Outcome got = run_job(world, layout.ep, config, options);
    const std::string report = differences(got, want, tolerance_of(options.dtype));
    EXPECT_EQ(report, "") << "EP " << layout.ep << " x DP " << layout.dp << ", rank "
                          << world.rank();
  });
}

class Parity : public ::testing::TestWithParam<std::tuple<Layout, DType, bool>> {};

TEST_P(Parity, LossGradientsNormAndWeightsEqualOneProcess) {
  const auto [layout, dtype, zero] = GetParam();
  EngineOptions options = parity_options(dtype);
  options.zero = zero;
  expect_parity(layout, parity_model(), options);
}
std::string layout_name(const ::testing::TestParamInfo<Parity::ParamType>& test) {
  const auto [layout, dtype, zero] = test.param;
  return str("EP", layout.ep, "_DP", layout.dp, "_", name(dtype), zero ? "_zero" : "");
}
INSTANTIATE_TEST_SUITE_P(Grid, Parity,
                         ::testing::Combine(::testing::Values(Layout{1, 1}, Layout{2, 1},
                                                              Layout{1, 2}, Layout{2, 2},
                                                              Layout{4, 1}),
                                            ::testing::Values(DType::f64, DType::f32),
                                            ::testing::Bool()),
                         layout_name);

TEST(ParityVariants, HoldForALinearGateWithoutNoiseAndTiedEmbeddings) {
  ModelConfig c = parity_model(true);
  c.moe.gate = GateKind::linear;
  c.moe.gate_noise = false;
  expect_parity({2, 2}, c, parity_options(DType::f64));
}

TEST(ParityVariants, HoldForUnitWeightsAndExpertBiases) {
  ModelConfig c = parity_model();
  c.moe.gate = GateKind::linear;
  c.moe.gate_noise = false;
  c.moe.gate_bias = c.moe.unit_weights = c.moe.expert_bias = true;
  for (const DType dtype : {DType::f64, DType::f32}) {
    EngineOptions o = parity_options(dtype);
    o.zero = dtype == DType::f32;
    o.router.capacity_factor = 1;
    expect_parity({2, 2}, c, o);
  }
}

TEST(ParityVariants, HoldForRatesByFamily) {
  EngineOptions o = parity_options(DType::f64);
  const Outcome plain = reference_outcome(parity_model(), o);
  for (std::size_t f = 0; f < o.optimizer.rates.size(); ++f) o.optimizer.rates[f] = 0.5 + double(f);
  EXPECT_NE(differences(reference_outcome(parity_model(), o), plain, tolerance_of(DType::f64)), "");
  for (const bool zero : {false, true}) {
    o.zero = zero;
    expect_parity({2, 2}, parity_model(), o);
  }
}

TEST(ParityVariants, HoldForStatisticsOfTheWholeStep) {
  // One accumulation step must hold the same sequences on every layout: all eight at once.
  EngineOptions o = parity_options(DType::f64);
  o.router.scope = BalanceScope::step;
  o.micro_batch = 8;
  expect_parity({2, 2}, parity_model(), o);
}

TEST(ParityVariants, HoldToTheBitWhateverIsRecomputed) {
  EngineOptions o = parity_options(DType::f64);
  const Outcome want = reference_outcome(parity_model(), o);
  for (const Recompute what : {Recompute::cheap, Recompute::block}) {
    o.recompute = what;
    EXPECT_EQ(differences(run_job(*single_rank(), 1, parity_model(), o), want, {0, 0, 0}), "");
    run_ranks(2, [&](Communicator& world) {
      EXPECT_EQ(differences(run_job(world, 2, parity_model(), o), want, tolerance_of(DType::f64)),
                "");
    });
  }
}

TEST(ParityVariants, HoldForAnySizeOfMicroBatch) {
  EngineOptions o = parity_options(DType::f64);
  const Outcome want = reference_outcome(parity_model(), o);
  const std::unique_ptr<Communicator> alone = single_rank();
  for (const std::int64_t micro : {1, 3, 8}) {
    o.micro_batch = micro;
    EXPECT_EQ(differences(run_job(*alone, 1, parity_model(), o), want, tolerance_of(DType::f64)),
              "")
        << "micro-batches of " << micro;
  }
}

TEST(ParityVariants, HoldForADenseModelUnderDataParallelism) {
  ModelConfig c = parity_model();
  c.moe = {};
  for (const bool zero : {false, true}) {
    EngineOptions o = parity_options(DType::f64);
    o.zero = zero;
    expect_parity({1, 4}, c, o);
  }
}

TEST(ParityVariants, GradientsThatTravelAsBf16AreRoundedOnceAndSummedInF32) {
  EngineOptions o = parity_options(DType::f32);
  const Outcome want = reference_outcome(parity_model(), o);
  o.zero = true;
  o.gradient_transport = DType::bf16;
  run_ranks(4, [&](Communicator& world) {
    const Outcome got = run_job(world, 2, parity_model(), o);
    EXPECT_EQ(got.first.loss, run_job(world, 2, parity_model(), o).first.loss);
    for (const auto& [name, rows] : got.gradients)
      // Half a unit in the last of 8 bits, of each summand; summands may be larger than their sum.
      EXPECT_LT(relative_difference(rows, want.gradients.at(name)), 0.01) << name;
  });
}

// The faults that real systems have had: expert gradients EP times too large or averaged over the
// wrong group, hidden by Adam's indifference to scale.
TEST(ParityFaults, AWrongScaleOfExpertGradientsIsSeen) {
  const EngineOptions options = parity_options(DType::f32);
  const Outcome want = reference_outcome(parity_model(), options);
  run_ranks(2, [&](Communicator& world) {
    Outcome got = run_job(world, 2, parity_model(), options);
    for (auto& [name, rows] : got.gradients)
      if (name.find("experts") != std::string::npos) backend(Device::cpu).scale(rows.values, 2);
    EXPECT_NE(differences(got, want, tolerance_of(DType::f32)).find("gradient of"),
              std::string::npos);
  });
}

TEST(ParityFaults, AnotherSeedOfGateNoiseIsSeen) {
  EngineOptions options = parity_options(DType::f64);
  const Outcome want = reference_outcome(parity_model(), options);
  options.seed = 43;
  const std::unique_ptr<Communicator> alone = single_rank();
  EXPECT_NE(
      differences(run_job(*alone, 1, parity_model(), options), want, tolerance_of(DType::f64)), "");
}

TEST(Repeat, TheSameJobOnTheSameLayoutRepeatsToTheBit) {
  const EngineOptions options = parity_options(DType::f32);
  run_ranks(4, [&](Communicator& world) {
    const Outcome a = run_job(world, 2, parity_model(), options);
    const Outcome b = run_job(world, 2, parity_model(), options);
    EXPECT_EQ(differences(a, b, {0, 0, 0}), "");
  });
}

}  // namespace
}  // namespace moe
