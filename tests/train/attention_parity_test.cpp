// SPDX-License-Identifier: Apache-2.0
// Models with experts in their attention, beside those of the feed-forward, give the gradients of
// one process on every EP x DP layout.
#include <gtest/gtest.h>

#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;

struct Variant {
  const char* name;
  ModelConfig config;
};

void PrintTo(const Variant& v, std::ostream* out) { *out << v.name; }

std::vector<Variant> variants() {
  using enum AttentionExpert;
  std::vector<Variant> list = {
      {"Queries2Top1", with_attention_experts(parity_model(), queries, 2, 1)},
      {"Heads2Top1", with_attention_experts(parity_model(), heads, 2, 1)},
      {"Heads4Top2", with_attention_experts(parity_model(true), heads, 4, 2)},
      {"NoisyHeads4Top3", with_attention_experts(parity_model(), heads, 4, 3)},
  };
  // Smaller weights than parity_model's: two mixtures a layer amplify f32's rounding.
  for (Variant& v : list) v.config.initializer_range = 0.25;
  list.back().config.attention_moe.gate_noise = true;
  return list;
}

/// f32 may be off by twice the metric, of which one layout alone takes the most part already.
Tolerance tolerance(DType dtype) {
  const Tolerance t = tolerance_of(dtype);
  if (dtype == DType::f64) return t;
  return {2 * t.scalar, 2 * t.gradient, 2 * t.weight};
}

class AttentionParity : public ::testing::TestWithParam<Variant> {};

TEST_P(AttentionParity, HoldsOnEveryLayoutAndInEveryWayOfComputing) {
  const ModelConfig& config = GetParam().config;
  EngineOptions options = parity_options(DType::f64);
  for (const bool documents : {false, true}) {
    const Outcome want = reference_outcome(config, options, documents);
    ASSERT_GT(want.first.attention_routing.switch_top_k, 0);
    for (const auto& [ep, dp] : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}})
      for (const DType dtype : {DType::f64, DType::f32})
        for (const Recompute recompute : {Recompute::none, Recompute::cheap, Recompute::block}) {
          if (dtype == DType::f32 && recompute != Recompute::none) continue;
          EngineOptions o = parity_options(dtype);
          o.zero = recompute != Recompute::none;
          o.recompute = recompute;
          o.micro_batch = recompute == Recompute::cheap ? 1 : 2;
          run_ranks(ep * dp, [&, ep = ep](Communicator& world) {
            EXPECT_EQ(
                differences(run_job(world, ep, config, o, {}, documents), want, tolerance(dtype)),
                "")
                << "EP " << ep << ", rank " << world.rank() << " of " << world.size() << ", "
                << name(dtype) << ", documents " << documents << ", recompute " << int(recompute);
          });
        }
  }
}

TEST_P(AttentionParity, HoldsWithCapacityBiasAndStatisticsOfTheStepBefore) {
  ModelConfig config = GetParam().config;
  config.attention_moe.selection_bias = true;
  EngineOptions options = parity_options(DType::f64);
  options.attention_router.capacity_factor = 1;
  options.attention_router.cv_squared = 0;
  options.attention_router.scope = BalanceScope::global_batch;
  options.attention_router.bias_update_rate = 0.02;
  const Outcome want = reference_outcome(config, options, true);
  EXPECT_GT(want.first.attention_routing.dropped, 0);
  run_ranks(4, [&](Communicator& world) {
    EXPECT_EQ(
        differences(run_job(world, 2, config, options, {}, true), want, tolerance_of(DType::f64)),
        "");
  });
}

INSTANTIATE_TEST_SUITE_P(Variants, AttentionParity, ::testing::ValuesIn(variants()),
                         [](const auto& test) { return test.param.name; });

TEST(AttentionRouting, CountsEveryPairOfItsOwn) {
  const ModelConfig config = with_attention_experts(parity_model(), AttentionExpert::heads, 4, 3);
  const StepResult r = run_job(*single_rank(), 1, config, parity_options(DType::f64)).first;
  const std::int64_t tokens = parity_batch(1).counts.routed;
  for (const std::size_t l : {0u, 2u}) {
    std::int64_t pairs = 0;
    for (const std::int64_t n : r.attention_routing.loads.at(l)) pairs += n;
    EXPECT_EQ(pairs, 3 * tokens);
  }
  EXPECT_EQ(r.attention_routing.loads[1], std::vector<std::int64_t>(4, 0)) << "a dense layer";
  EXPECT_EQ(r.routing.loads[0].size(), 5u);
}

}  // namespace
}  // namespace moe
