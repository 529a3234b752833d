// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "autograd/recompute.h"
#include "ops/elementwise.h"
#include "ops/permute.h"
#include "ops/routing.h"
#include "support/grad_check.h"

namespace moe {
namespace {

using testing::expect_gradients;
using testing::indices;
using testing::random_f64;

class RouterWeightForms : public ::testing::TestWithParam<RouterWeights> {};

TEST_P(RouterWeightForms, GradientsMatchCentralDifferences) {
  const Tensor logits = random_f64({4, 5}, 1);
  const ops::Routing r = ops::choose_experts(logits, 2, Tensor());
  expect_gradients(
      [&](const auto& in) { return ops::router_weights(in[0], r.indices, GetParam()); }, {logits});
}
INSTANTIATE_TEST_SUITE_P(Forms, RouterWeightForms,
                         ::testing::Values(RouterWeights::softmax_of_chosen,
                                           RouterWeights::softmax_of_all));

TEST(RoutingOps, TiesGoToTheLowestIndexAndPaddingToNobody) {
  const Tensor valid = Tensor::of<std::uint8_t>({2}, {1, 0});
  const ops::Routing r =
      ops::choose_experts(Tensor::of<double>({2, 3}, {1, 1, 1, 5, 6, 7}), 2, valid);
  EXPECT_EQ(
      std::vector<std::int32_t>(r.indices.data<std::int32_t>(), r.indices.data<std::int32_t>() + 4),
      (std::vector<std::int32_t>{0, 1, -1, -1}));
}

TEST(RoutingOps, BalanceLossGradientsMatchCentralDifferences) {
  const Tensor logits = random_f64({6, 4}, 1), weights = Tensor::of<double>({2}, {0.3, 0.7});
  const Tensor valid = Tensor::of<std::uint8_t>({6}, {1, 1, 1, 1, 1, 0});
  const ops::Routing r = ops::choose_experts(logits, 2, valid);
  expect_gradients(
      [&](const auto& in) {
        const Variable w = ops::router_weights(in[0], r.indices, RouterWeights::softmax_of_chosen);
        const Variable importance =
            ops::segment_sum(ops::scatter_columns(w, r.indices, 4), 2, valid);
        return ops::cv_squared(importance, weights);
      },
      {logits});
  const Tensor counts = Tensor::of<std::int64_t>({2, 4}, {2, 1, 3, 0, 1, 1, 1, 1});
  expect_gradients(
      [&](const auto& in) {
        return ops::switch_loss(ops::segment_sum(ops::softmax(in[0]), 2, valid), counts, weights);
      },
      {logits});
  expect_gradients([&](const auto& in) { return ops::z_loss(in[0], valid, 0.2); }, {logits});
}

class NoisyLoad : public ::testing::TestWithParam<bool> {};

TEST_P(NoisyLoad, GradientsMatchCentralDifferencesThroughThresholds) {
  const Tensor clean = random_f64({5, 4}, 1), raw = random_f64({5, 4}, 2),
               noise = random_f64({5, 4}, 3);
  const testing::Function load_of = [&](const std::vector<Variable>& in) {
    const Variable sigma = ops::softplus(in[1], 0.01);
    const Variable noisy = ops::multiply_add(in[0], sigma, noise);
    const ops::Routing r = ops::choose_experts(noisy.value, 2, Tensor());
    return ops::noisy_load(in[0], noisy, sigma, r, GetParam());
  };
  expect_gradients(load_of, {clean, raw}, 1e-5);
}
INSTANTIATE_TEST_SUITE_P(Formulas, NoisyLoad, ::testing::Bool());

TEST(RoutingOps, DispatchExpertsCombineGradientsMatchCentralDifferences) {
  const Tensor routing = indices({4, 2}, {2, 0, 0, 1, -1, -1, 2, 1});
  const ops::Permutation p = ops::sort_by_expert(routing, 4);
  EXPECT_EQ(p.counts, (std::vector<std::int64_t>{2, 2, 2, 0}));
  expect_gradients(
      [&](const auto& in) { return ops::combine(ops::tanh(ops::dispatch(in[0], p)), in[1], p, 4); },
      {random_f64({4, 3}, 1), random_f64({4, 2}, 2)});
}

TEST(RoutingOps, ARecomputedBlockKeepsItsExpertsWhenTheScoresHaveMoved) {
  Variable x = Variable::leaf(Tensor::of<double>({1, 3}, {3, 2, 1}));
  std::vector<std::int32_t> chosen;
  const Block block = [&](std::span<const Variable> in) {
    const ops::Routing r = ops::choose_experts(in[0].value, 1, Tensor());
    chosen.push_back(*r.indices.data<std::int32_t>());
    return std::vector<Variable>{
        ops::router_weights(in[0], r.indices, RouterWeights::softmax_of_all)};
  };
  Tape tape;
  const Variable y = recompute(block, std::span(&x, 1), {})[0];
  x.value.data<double>()[2] = 9;  // the second run sees other scores
  tape.backward(y);
  EXPECT_EQ(chosen, (std::vector<std::int32_t>{0, 0}));
}

}  // namespace
}  // namespace moe
