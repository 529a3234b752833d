// SPDX-License-Identifier: Apache-2.0
#include "optim/selection_bias.h"

#include <gtest/gtest.h>

namespace moe {
namespace {

ModelConfig small() {
  ModelConfig c;
  c.vocab_size = 5;
  c.hidden_size = 4;
  c.intermediate_size = 3;
  c.layers = 2;
  c.heads = c.kv_heads = 1;
  c.head_dim = 4;
  c.moe.experts = 3;
  c.moe.expert_sizes = {{}, {1, 1, 1}};
  c.moe.score_scale = {1, 1};
  c.moe.selection_bias = true;
  return c;
}

TEST(SelectionBias, MovesByTheRateTowardsTheMeanAndStaysWhereItIsMet) {
  const ModelConfig config = small();
  ParameterStore store(config, DType::f32);
  store.load(initial_weights(config, 1));
  const Tensor bias = store["layers.1.router.selection_bias"].value;
  update_selection_bias(store, "router", {{0, 0, 0}, {7, 4, 1}}, 0.25);
  EXPECT_EQ(bias.data<float>()[0], -0.25f);
  EXPECT_EQ(bias.data<float>()[1], 0.0f);
  EXPECT_EQ(bias.data<float>()[2], 0.25f);
  // Means that are no integers: 10/3.
  update_selection_bias(store, "router", {{0, 0, 0}, {3, 3, 4}}, 0.25);
  EXPECT_EQ(bias.data<float>()[0], 0.0f);
  EXPECT_EQ(bias.data<float>()[1], 0.25f);
  EXPECT_EQ(bias.data<float>()[2], 0.0f);
}

TEST(SelectionBias, OfABf16ModelKeepsSmallSteps) {
  const ModelConfig config = small();
  ParameterStore store(config, DType::bf16);
  store.load(initial_weights(config, 1));
  const Tensor bias = store["layers.1.router.selection_bias"].value;
  ASSERT_EQ(bias.dtype(), DType::f32);
  for (int i = 0; i < 1001; ++i) update_selection_bias(store, "router", {{}, {9, 0, 0}}, 0.001);
  EXPECT_NEAR(bias.data<float>()[1], 1.001, 1e-5);  // bf16 would stop at a quarter
}

}  // namespace
}  // namespace moe
