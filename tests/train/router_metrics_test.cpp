// SPDX-License-Identifier: Apache-2.0
#include "train/router_metrics.h"

#include <gtest/gtest.h>

namespace moe {
namespace {

TEST(RouterMetrics, SayHowEvenLoadAndProbabilitiesAre) {
  RoutingResult r;
  r.cv_squared = 0.5;
  r.dropped = 7;
  r.loads = {{5, 5, 5, 5}, {}, {10, 10, 0, 0}, {20, 0, 0, 0}};
  r.loads[1].assign(4, 0);  // a dense layer
  r.probabilities = {{1, 1, 1, 1}, {0, 0, 0, 0}, {6, 6, 6, 6}, {8, 8, 0, 0}};
  StepMetrics m;
  describe_routing(r, m);
  EXPECT_EQ(m.load_max_over_mean, (std::vector<double>{1, 2, 4}));
  EXPECT_EQ(m.expert_load,
            (std::vector<std::vector<std::int64_t>>{{5, 5, 5, 5}, {10, 10, 0, 0}, {20, 0, 0, 0}}));
  EXPECT_EQ(m.dead_experts, (std::vector<std::int64_t>{0, 2, 3}));
  ASSERT_EQ(m.router_entropy.size(), 3u);
  EXPECT_NEAR(m.router_entropy[0], std::log(4.0), 1e-15);
  EXPECT_NEAR(m.router_entropy[1], std::log(2.0), 1e-15);
  EXPECT_EQ(m.router_entropy[2], 0);
  ASSERT_EQ(m.probability_entropy.size(), 3u);
  EXPECT_NEAR(m.probability_entropy[1], std::log(4.0), 1e-15);
  EXPECT_NEAR(m.probability_entropy[2], std::log(2.0), 1e-15);
  EXPECT_EQ(m.dropped_tokens, 7);
  EXPECT_EQ(m.router_losses.at("cv_squared"), 0.5);
}

TEST(RouterMetrics, SayNothingOfADenseModel) {
  StepMetrics m;
  describe_routing(RoutingResult{}, m);
  EXPECT_TRUE(m.router_losses.empty());
  EXPECT_TRUE(m.load_max_over_mean.empty());
}

}  // namespace
}  // namespace moe
