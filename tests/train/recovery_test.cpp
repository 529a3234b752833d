// SPDX-License-Identifier: Apache-2.0
// A router that sends every token to the same experts: each balance mechanism brings it back,
// training alone does not.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;

constexpr std::int64_t kExperts = 8, kTop = 2, kSteps = 200, kLast = 20;

ModelConfig collapsing_model() {
  ModelConfig c = parity_model();
  c.layers = 2;
  c.intermediate_size = 24;
  c.moe = {};
  c.moe.experts = kExperts;
  c.moe.top_k = kTop;
  c.moe.expert_sizes.assign(2, std::vector<std::int64_t>(kExperts, 3));
  c.moe.score_scale.assign(2, double(kExperts) / kTop);
  c.moe.gate = GateKind::linear;
  c.moe.gate_bias = true;
  c.moe.gate_noise = false;
  return c;
}

/// Gates whose bias lifts experts 0 and 1 far above what any token can say.
ParameterRows collapsed_weights(const ModelConfig& config) {
  return [rows = initial_weights(config, 3)](const std::string& name, std::int64_t first,
                                             std::int64_t count) {
    Tensor t = rows(name, first, count);
    if (name.ends_with("router.bias"))
      for (std::int64_t e = 0; e < count; ++e) t.data<float>()[e] = first + e < kTop ? 3.0f : 0.0f;
    if (name.ends_with("router.weight")) backend(Device::cpu).scale(t, 0.2);
    return t;
  };
}

/// Load max / mean of the worst layer, over the first step and over the last twenty.
struct Imbalance {
  double first, last;
};

Imbalance train(const std::function<void(ModelConfig&, EngineOptions&)>& mechanism) {
  ModelConfig config = collapsing_model();
  EngineOptions options;
  options.domains = 2;
  options.router.cv_squared = 0;
  mechanism(config, options);
  const std::unique_ptr<Communicator> alone = single_rank();
  const ProcessGrid grid(*alone, 1);
  Engine engine(config, options, grid, collapsed_weights(config));
  std::vector<std::vector<std::int64_t>> total;
  const auto worst = [](const std::vector<std::vector<std::int64_t>>& loads) {
    double most = 0;
    for (const auto& load : loads) {
      double pairs = 0;
      for (const std::int64_t n : load) pairs += double(n);
      most = std::max(most, double(*std::ranges::max_element(load)) * kExperts / pairs);
    }
    return most;
  };
  Imbalance out{};
  for (std::int64_t step = 1; step <= kSteps; ++step) {
    const GlobalBatch batch = parity_batch(step);
    const StepResult r = engine.train_step(batch.all, batch.counts, step, 0.01);
    if (step == 1) out.first = worst(r.loads);
    if (step == kSteps - kLast + 1) total = r.loads;
    if (step > kSteps - kLast + 1)
      for (std::size_t l = 0; l < total.size(); ++l)
        for (std::size_t e = 0; e < total[l].size(); ++e) total[l][e] += r.loads[l][e];
  }
  out.last = worst(total);
  return out;
}

struct Mechanism {
  const char* name;
  std::function<void(ModelConfig&, EngineOptions&)> set;
};

void switch_loss(EngineOptions& o, BalanceScope scope) {
  o.router.switch_top_k = 0.05;
  o.router.scope = scope;
}

class CollapsedRouter : public ::testing::TestWithParam<Mechanism> {};

TEST_P(CollapsedRouter, RecoversToLessThanHalfAboveTheMean) {
  const Imbalance load = train(GetParam().set);
  EXPECT_GT(load.first, 3.8) << "of at most 4: nearly all tokens at the same experts";
  EXPECT_LT(load.last, 1.5);
}

INSTANTIATE_TEST_SUITE_P(
    Mechanisms, CollapsedRouter,
    ::testing::Values(
        // Only the smooth load of a noisy gate reaches experts that nobody chooses.
        Mechanism{"CvSquared",
                  [](ModelConfig& c, EngineOptions& o) {
                    c.moe.gate_noise = true;
                    o.router.cv_squared = 0.05;
                  }},
        Mechanism{"SwitchSequence",
                  [](ModelConfig&, EngineOptions& o) { switch_loss(o, BalanceScope::sequence); }},
        Mechanism{"SwitchStep",
                  [](ModelConfig&, EngineOptions& o) { switch_loss(o, BalanceScope::step); }},
        Mechanism{
            "SwitchGlobalBatch",
            [](ModelConfig&, EngineOptions& o) { switch_loss(o, BalanceScope::global_batch); }},
        Mechanism{"SelectionBias",
                  [](ModelConfig& c, EngineOptions& o) {
                    c.moe.selection_bias = true;
                    o.router.bias_update_rate = 0.02;
                  }}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(CollapsedRouterAlone, StaysCollapsedWithAllOff) {
  for (const bool noise : {false, true}) {
    const Imbalance load = train([=](ModelConfig& c, EngineOptions&) { c.moe.gate_noise = noise; });
    EXPECT_GT(load.first, 3.8);
    EXPECT_GT(load.last, 3.5) << (noise ? "with" : "without") << " noise";
  }
}

TEST(CollapsedRouterAlone, CvSquaredWithoutNoiseCannotReachExpertsThatNobodyChooses) {
  EXPECT_EQ(train([](ModelConfig&, EngineOptions& o) { o.router.cv_squared = 0.05; }).last, 4);
}

}  // namespace
}  // namespace moe
