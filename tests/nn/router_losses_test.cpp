// SPDX-License-Identifier: Apache-2.0
// Each router loss under each scope: at uniform, at collapse, its gradient.
#include "nn/router_losses.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>

#include "nn/router.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

constexpr std::int64_t kExperts = 4, kTop = 2, kSequences = 2, kLength = 8;
constexpr std::int64_t kTokens = kSequences * kLength;
constexpr std::int64_t kIds[] = {5, 9};

ModelConfig router_config(bool noise) {
  ModelConfig c;
  c.vocab_size = 3;
  c.hidden_size = kExperts;
  c.intermediate_size = 4;
  c.layers = 1;
  c.heads = c.kv_heads = 1;
  c.head_dim = kExperts;
  c.moe.experts = kExperts;
  c.moe.top_k = kTop;
  c.moe.expert_sizes = {{1, 1, 1, 1}};
  c.moe.score_scale = {1};
  c.moe.gate = GateKind::linear;
  c.moe.gate_noise = noise;
  return c;
}

/// One layer's router in f64 on one process, training on two sequences of eight tokens.
struct Bench {
  explicit Bench(bool noise = false)
      : config(router_config(noise)), world(single_rank()), store(config, DType::f64) {
    store.load(initial_weights(config, 3));
    weight("weight").copy_from(identity());
    context.sequences = kSequences;
    context.length = kLength;
    context.sequence_tokens.assign(kSequences, kLength);
    context.training = true;
    context.step = 1;
    context.sequence_ids = kIds;
    context.routing.options = {};
    context.routing.options.cv_squared = 0;
    context.inverse_routed = 1.0 / kTokens;
    context.routing.previous_counts = Tensor::of<std::int64_t>({1, kExperts}, {1, 1, 1, 1});
  }

  static Tensor identity() {
    Tensor w = Tensor::zeros({kExperts, kExperts}, DType::f64);
    for (std::int64_t e = 0; e < kExperts; ++e) w.data<double>()[e * kExperts + e] = 1;
    return w;
  }
  Tensor weight(const std::string& rest) const { return store["layers.0.router." + rest].value; }
  RouterOutput run(const Tensor& x) const {
    return Router(config, store, Router::Of::ffn, 0, *world).forward(Variable::leaf(x), context);
  }
  /// With the identity for a gate, x are the logits.
  double loss(const Tensor& x) const { return *run(x).loss.value.data<double>(); }

  ModelConfig config;
  std::unique_ptr<Communicator> world;
  ParameterStore store;
  ForwardContext context;
};

/// Every expert chosen equally often and with equal probability, over any 4 tokens in a row.
Tensor uniform_logits() {
  Tensor x = Tensor::zeros({kTokens, kExperts}, DType::f64);
  for (std::int64_t t = 0; t < kTokens; ++t)
    for (std::int64_t j = 0; j < kTop; ++j) x.data<double>()[t * kExperts + (t + j) % kExperts] = 3;
  return x;
}

/// Every token at experts 0 and 1, nearly all probability too.
Tensor collapsed_logits() {
  Tensor x = Tensor::zeros({kTokens, kExperts}, DType::f64);
  for (std::int64_t t = 0; t < kTokens; ++t)
    for (std::int64_t j = 0; j < kTop; ++j) x.data<double>()[t * kExperts + j] = 40;
  return x;
}

constexpr double kCollapsedCv =  // of importance and of load
    2 * double(kExperts) * (1.0 / kTop - 1.0 / kExperts) * kExperts / (kExperts - 1);

struct Case {
  const char* name;
  double RouterOptions::*coefficient;
  BalanceScope scope;
  double uniform, collapse;
};
std::string name_of(const ::testing::TestParamInfo<Case>& test) { return test.param.name; }

class BalanceLoss : public ::testing::TestWithParam<Case> {
 protected:
  Bench bench(bool noise = false) const {
    Bench b(noise);
    b.context.routing.options.*GetParam().coefficient = 0.5;
    b.context.routing.options.scope = GetParam().scope;
    return b;
  }
};

TEST_P(BalanceLoss, IsAsDefinedAtUniformAndAtCollapse) {
  Bench b = bench();
  EXPECT_NEAR(b.loss(uniform_logits()), 0.5 * GetParam().uniform, 1e-9);
  b.context.routing.previous_counts =
      Tensor::of<std::int64_t>({1, kExperts}, {kTokens, kTokens, 0, 0});
  EXPECT_NEAR(b.loss(collapsed_logits()), 0.5 * GetParam().collapse, 1e-9);
  EXPECT_LT(GetParam().uniform, GetParam().collapse);
}

TEST_P(BalanceLoss, GradientsMatchCentralDifferencesThroughGateAndNoise) {
  Bench b = bench(true);
  b.weight("noise.weight").copy_from(test::random_tensor({kExperts, kExperts}, DType::f64, 4, 0.3));
  b.context.routing.previous_counts = Tensor::of<std::int64_t>({1, kExperts}, {9, 1, 4, 2});
  // Uneven padding: the last three tokens of the second sequence.
  b.context.valid = Tensor::empty({kTokens}, DType::u8);
  for (std::int64_t t = 0; t < kTokens; ++t)
    b.context.valid.data<std::uint8_t>()[t] = t < kTokens - 3;
  b.context.sequence_tokens = {kLength, kLength - 3};
  b.context.inverse_routed = 1.0 / (kTokens - 3);
  b.context.routing.options.noise_anneal_steps = 4;
  b.context.step = 2;
  const Tensor x = test::random_tensor({kTokens, kExperts}, DType::f64, 5);
  const Variable input = Variable::leaf(x);
  Tape tape;
  tape.backward(
      Router(b.config, b.store, Router::Of::ffn, 0, *b.world).forward(input, b.context).loss);
  const NoTape no_recording;
  const auto loss = [&] { return b.loss(x); };
  const auto expect = [&](const char* what, const Tensor& value, const Tensor& gradient) {
    ASSERT_TRUE(gradient.defined()) << what;
    EXPECT_LT(test::relative_error(gradient, test::central_differences(value, loss)), 1e-6) << what;
  };
  expect("x", x, input.slot->grad);
  for (const char* name : {"weight", "noise.weight"})
    if (GetParam().coefficient != &RouterOptions::z || name == std::string("weight"))
      expect(name, b.weight(name), b.store[str("layers.0.router.", name)].slot->grad);
}

TEST_P(BalanceLoss, TakesNoAccountOfPadding) {
  Bench b = bench();
  const Tensor x = test::random_tensor({kTokens, kExperts}, DType::f64, 6);
  b.context.valid = Tensor::empty({kTokens}, DType::u8);
  for (std::int64_t t = 0; t < kTokens; ++t) b.context.valid.data<std::uint8_t>()[t] = t % 3 != 0;
  b.context.sequence_tokens = {5, 5};
  const double before = b.loss(x);
  for (std::int64_t t = 0; t < kTokens; t += 3)
    for (std::int64_t e = 0; e < kExperts; ++e) x.data<double>()[t * kExperts + e] = 7;
  EXPECT_EQ(b.loss(x), before);
}

// logits 3, 3, 0, 0 and 40, 40, 0, 0
const double kUniformZ = std::pow(std::log(2 * std::exp(3.0) + 2), 2);
const double kCollapsedZ = std::pow(40 + std::log(2.0), 2);
INSTANTIATE_TEST_SUITE_P(
    EachScope, BalanceLoss,
    ::testing::Values(
        Case{"CvSquared_sequence", &RouterOptions::cv_squared, BalanceScope::sequence, 0,
             kCollapsedCv},
        Case{"CvSquared_step", &RouterOptions::cv_squared, BalanceScope::step, 0, kCollapsedCv},
        Case{"CvSquared_rank", &RouterOptions::cv_squared, BalanceScope::rank, 0, kCollapsedCv},
        Case{"Switch_sequence", &RouterOptions::switch_top_k, BalanceScope::sequence, 1,
             double(kExperts) / kTop},
        Case{"Switch_step", &RouterOptions::switch_top_k, BalanceScope::step, 1,
             double(kExperts) / kTop},
        Case{"Switch_global_batch", &RouterOptions::switch_top_k, BalanceScope::global_batch, 1,
             double(kExperts) / kTop},
        Case{"Switch_rank", &RouterOptions::switch_top_k, BalanceScope::rank, 1,
             double(kExperts) / kTop},
        Case{"Z", &RouterOptions::z, BalanceScope::sequence, kUniformZ, kCollapsedZ}),
    name_of);

TEST(BalanceScopes, DifferWhereSequencesLeanToDifferentExperts) {
  Bench b;
  b.context.routing.options.switch_top_k = 1;
  // The first sequence at experts 0 and 1, the second at 2 and 3.
  Tensor x = collapsed_logits();
  for (std::int64_t t = kLength; t < kTokens; ++t)
    for (std::int64_t e = 0; e < kExperts; ++e)
      x.data<double>()[t * kExperts + e] = e < kTop ? 0 : 40;
  EXPECT_NEAR(b.loss(x), 2, 1e-9);
  b.context.routing.options.scope = BalanceScope::step;
  EXPECT_NEAR(b.loss(x), 1, 1e-9);
  b.context.routing.options.scope = BalanceScope::global_batch;
  b.context.routing.previous_counts = Tensor::of<std::int64_t>({1, kExperts}, {30, 30, 10, 10});
  EXPECT_NEAR(b.loss(x), (1.5 + 0.5) / 2, 1e-9);
}

TEST(GlobalBatchScope, OfUniformCountsHasNoGradient) {
  Bench b;
  b.context.routing.options.switch_top_k = 1;
  b.context.routing.options.scope = BalanceScope::global_batch;
  const Variable x = Variable::leaf(test::random_tensor({kTokens, kExperts}, DType::f64, 5));
  Tape tape;
  const Variable loss =
      Router(b.config, b.store, Router::Of::ffn, 0, *b.world).forward(x, b.context).loss;
  EXPECT_NEAR(*loss.value.data<double>(), 1, 1e-12);
  tape.backward(loss);
  for (const double g : test::to_doubles(x.slot->grad)) EXPECT_NEAR(g, 0, 1e-15);
}

TEST(GateNoise, FallsInAStraightLineToNone) {
  RouterOptions o;
  EXPECT_EQ(o.noise_factor(1000000), 1);
  o.noise_anneal_steps = 4;
  for (const auto& [step, factor] : {std::pair{1, 1.0}, {2, 0.75}, {4, 0.25}, {5, 0.0}, {99, 0.0}})
    EXPECT_EQ(o.noise_factor(step), factor) << step;
}

TEST(GateNoise, AtHalfHasHalfTheDeviationAndAtNoneLeavesTheGateAsWithoutNoise) {
  const Tensor x = test::random_tensor({kTokens, kExperts}, DType::f64, 5);
  const auto run_after = [&](bool noise) {
    Bench b(noise);
    b.context.routing.options.cv_squared = 1;
    b.context.routing.options.noise_anneal_steps = 2;
    b.context.step = 3;
    return b.run(x);
  };
  const RouterOutput off = run_after(false), annealed = run_after(true);
  EXPECT_TRUE(test::same_bits(annealed.indices, off.indices));
  EXPECT_TRUE(test::same_bits(annealed.weights.value, off.weights.value));
  EXPECT_TRUE(test::same_bits(annealed.loss.value, off.loss.value));

  // Noise weights of zero: sigma = ln 2 + epsilon everywhere.
  Bench half(true), small(true);
  half.context.step = small.context.step = 2;
  half.context.routing.options.noise_anneal_steps = 2;
  half.context.routing.options.cv_squared = small.context.routing.options.cv_squared = 1;
  small.config.moe.noise_epsilon = (std::log(2.0) + 0.01) / 2 - std::log(2.0);
  EXPECT_NEAR(half.loss(x), small.loss(x), 1e-12);
  EXPECT_LT(
      test::relative_error(half.run(x).weights.value, test::to_doubles(small.run(x).weights.value)),
      1e-12);
}

TEST(SelectionBias, ChoosesExpertsByProbabilityAndBiasButWeighsWithoutIt) {
  Bench plain, biased;
  biased.config.moe.selection_bias = true;
  biased.store = ParameterStore(biased.config, DType::f64);
  biased.store.load(initial_weights(biased.config, 3));
  biased.weight("weight").copy_from(Bench::identity());
  plain.context.routing.options.cv_squared = biased.context.routing.options.cv_squared = 1;
  const Tensor x = test::random_tensor({kTokens, kExperts}, DType::f64, 8);
  EXPECT_TRUE(test::same_bits(biased.run(x).indices, plain.run(x).indices)) << "a bias of zeros";

  // More than any probability: everybody takes expert 2, then the likeliest of the others.
  biased.weight("selection_bias").copy_from(Tensor::of<double>({kExperts}, {0, 0, 1.5, 0}));
  for (const bool training : {true, false}) {
    biased.context.training = training;
    const RouterOutput out = biased.run(x);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const double* logit = x.data<double>() + t * kExperts;
      const auto* chosen = out.indices.data<std::int32_t>() + t * kTop;
      EXPECT_EQ(chosen[0], 2);
      const double first = std::exp(logit[2]), second = std::exp(logit[chosen[1]]);
      EXPECT_NEAR(out.weights.value.data<double>()[t * kTop], first / (first + second), 1e-12);
      for (std::int64_t e = 0; e < kExperts; ++e)
        EXPECT_TRUE(e == 2 || logit[e] <= logit[chosen[1]]);
    }
  }
}

TEST(Capacity, RoundsUpTheShareAndNothingMore) {
  RouterOptions o;
  o.capacity_factor = 1.25;
  EXPECT_EQ(o.capacity(8, 2, 4), 5);
  EXPECT_EQ(o.capacity(9, 2, 4), 6);
  EXPECT_EQ(o.capacity(0, 2, 4), 0);
  o.capacity_factor = 1.1;
  EXPECT_GT(1.1 * 50, 55);
  EXPECT_EQ(o.capacity(25, 2, 5), 11);
}

TEST(Capacity, LetsEachExpertTakeItsShareOfASequence) {
  Bench b;
  b.context.routing.options.switch_top_k = 1;
  const Tensor x = collapsed_logits();
  // The second sequence has three tokens; the first one's later tokens are surer.
  b.context.valid = Tensor::zeros({kTokens}, DType::u8);
  b.context.sequence_tokens = {kLength, 3};
  for (std::int64_t t = 0; t < kTokens; ++t)
    b.context.valid.data<std::uint8_t>()[t] = t < kLength + 3;
  for (std::int64_t t = 0; t < kLength; ++t) x.data<double>()[t * kExperts + 1] = 39 - double(t);
  const RouterOutput all = b.run(x);
  b.context.routing.options.capacity_factor = 1.5;
  // ceil(1.5 * 8 * 2 / 4) = 6 pairs of the first sequence, ceil(1.5 * 3 * 2 / 4) = 3 of the other.
  RouterStatistics statistics(1, kExperts);
  b.context.routing.statistics = &statistics;
  const RouterOutput some = b.run(x);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const auto* e = some.indices.data<std::int32_t>() + t * kTop;
    const bool padding = t >= kLength + 3, first = t < kLength;
    // Expert 0 weighs more the later the token, expert 1 less.
    EXPECT_EQ(e[0], padding || (first && t < 2) ? -1 : 0) << "token " << t;
    EXPECT_EQ(e[1], padding || (first && t >= 6) ? -1 : 1) << "token " << t;
  }
  EXPECT_EQ(test::to_doubles(statistics.chosen), (std::vector<double>{11, 11, 0, 0}));
  EXPECT_EQ(test::to_doubles(statistics.placed), (std::vector<double>{9, 9, 0, 0}));
  // Losses look at the choice, and the weights of what stays are what they were.
  EXPECT_TRUE(test::same_bits(some.loss.value, all.loss.value));
  EXPECT_TRUE(test::same_bits(some.weights.value, all.weights.value));

  b.context.training = false;
  EXPECT_TRUE(test::same_bits(b.run(x).indices, all.indices)) << "evaluation drops nothing";
}

}  // namespace
}  // namespace moe
