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

/// Gates whose bias lifts the first experts, as many as are chosen, far above what any token can
/// say.
ParameterRows collapsed_weights(const ModelConfig& config) {
  return [rows = initial_weights(config, 3), ffn = config.moe.top_k,
          attention = config.attention_moe.top_k](const std::string& name, std::int64_t first,
                                                  std::int64_t count) {
    Tensor t = rows(name, first, count);
    const std::int64_t favoured = name.find("attention") == std::string::npos ? ffn : attention;
    if (name.ends_with("router.bias"))
      for (std::int64_t e = 0; e < count; ++e)
        t.data<float>()[e] = first + e < favoured ? 3.0f : 0.0f;
    if (name.ends_with("router.weight")) backend(Device::cpu).scale(t, 0.2);
    return t;
  };
}

/// Load max / mean of the worst layer, over the first step and over the last twenty: of the
/// attention's experts where the model has such.
struct Imbalance {
  double first, last;
};

Imbalance train(const std::function<void(ModelConfig&, EngineOptions&)>& mechanism) {
  ModelConfig config = collapsing_model();
  EngineOptions options;
  options.domains = 2;
  options.router.cv_squared = 0;
  options.attention_router.cv_squared = 0;
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
      if (pairs == 0) continue;
      most = std::max(most, double(*std::ranges::max_element(load)) * double(load.size()) / pairs);
    }
    return most;
  };
  Imbalance out{};
  for (std::int64_t step = 1; step <= kSteps; ++step) {
    const GlobalBatch batch = parity_batch(step);
    const StepResult r = engine.train_step(batch.all, batch.counts, step, 0.01);
    const auto& loads = config.is_attention_moe() ? r.attention_routing.loads : r.routing.loads;
    if (step == 1) out.first = worst(loads);
    if (step == kSteps - kLast + 1) total = loads;
    if (step > kSteps - kLast + 1)
      for (std::size_t l = 0; l < total.size(); ++l)
        for (std::size_t e = 0; e < total[l].size(); ++e) total[l][e] += loads[l][e];
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

TEST(CollapsedRouterAlone, OfOneExpertRecovers) {
  // The weight is the softmax over all experts, else it would be the constant 1.
  const auto top_1 = [](ModelConfig& c, double coefficient, EngineOptions& o) {
    c.moe.top_k = 1;
    c.moe.softmax_over_all = true;
    o.router.switch_top_k = coefficient;
  };
  const Imbalance load = train([&](ModelConfig& c, EngineOptions& o) { top_1(c, 0.05, o); });
  EXPECT_GT(load.first, 3.8);
  EXPECT_LT(load.last, 2);
}

TEST(CollapsedRouterAlone, OfTheAttentionRecoversAndStaysCollapsedWithout) {
  using enum AttentionExpert;
  for (const auto& [kind, experts, k] : {std::tuple{queries, 2, 1}, {heads, 4, 1}, {heads, 4, 2}})
    for (const double coefficient : {0.0, 0.05}) {
      const Imbalance load = train([&](ModelConfig& c, EngineOptions& o) {
        c = with_attention_experts(c, kind, experts, k);
        c.attention_moe.gate_bias = true;
        o.attention_router.switch_top_k = coefficient;
      });
      const double collapsed = double(experts) / double(k);
      EXPECT_GT(load.first, 0.9 * collapsed) << experts << " experts, top " << k;
      if (coefficient == 0) {
        EXPECT_GT(load.last, 0.85 * collapsed) << experts << " experts, top " << k;
      } else {
        EXPECT_LT(load.last, 1 + 0.5 * (collapsed - 1)) << experts << " experts, top " << k;
      }
    }
}

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
