// SPDX-License-Identifier: Apache-2.0
#include "split/logistic_router.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "support/reference_least_squares.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using test::near;
using test::random_tensor;
using test::to_doubles;

/// Tokens whose membership of three experts depends on them and on chance.
struct Memberships {
  std::int64_t tokens, hidden = 7, experts = 3;
  Tensor x, targets;

  explicit Memberships(std::int64_t count) : tokens(count) {
    x = random_tensor({tokens, hidden}, DType::f32, 1);
    for (std::int64_t t = 0; t < tokens; ++t) x.data<float>()[t * hidden + 2] += 1.5f;
    const Tensor w = random_tensor({hidden, experts}, DType::f32, 2);
    targets = random_tensor({tokens, experts}, DType::f32, 3, 2);
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t e = 0; e < experts; ++e) {
        float& target = targets.data<float>()[t * experts + e];
        for (std::int64_t i = 0; i < hidden; ++i)
          target += x.data<float>()[t * hidden + i] * w.data<float>()[i * experts + e];
        target = target > 0.8f ? 1.0f : 0.0f;
      }
  }

  /// x with a column of ones after it, where there is a bias.
  std::vector<double> inputs(bool bias) const {
    std::vector<double> rows;
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t i = 0; i < hidden; ++i) rows.push_back(x.data<float>()[t * hidden + i]);
      if (bias) rows.push_back(1);
    }
    return rows;
  }

  /// The sum of logistic losses of weights [unknowns, experts].
  double loss(const std::vector<double>& w, bool bias) const {
    const std::vector<double> rows = inputs(bias);
    const std::size_t n = rows.size() / std::size_t(tokens), e = std::size_t(experts);
    double sum = 0;
    for (std::size_t t = 0; t < std::size_t(tokens); ++t)
      for (std::size_t c = 0; c < e; ++c) {
        double z = 0;
        for (std::size_t i = 0; i < n; ++i) z += rows[t * n + i] * w[i * e + c];
        sum += std::log1p(std::exp(-std::fabs(z))) + std::max(z, 0.0) -
               double(targets.data<float>()[t * e + c]) * z;
      }
    return sum;
  }

  /// Its gradient by central differences.
  std::vector<double> gradient(const std::vector<double>& w, bool bias) const {
    const Tensor at = Tensor::of<double>({std::int64_t(w.size())}, w);
    return test::central_differences(at, [&] { return loss(to_doubles(at), bias); });
  }
};

/// A gate as [hidden (+ 1), E].
std::vector<double> weights_of(const GateWeights& gate) {
  std::vector<double> w;
  for (std::int64_t i = 0; i < gate.weight.cols(); ++i)
    for (std::int64_t e = 0; e < gate.weight.rows(); ++e)
      w.push_back(gate.weight.data<float>()[e * gate.weight.cols() + i]);
  if (gate.bias.defined())
    for (const double b : to_doubles(gate.bias)) w.push_back(b);
  return w;
}

double norm(const std::vector<double>& v) {
  return test::relative_error(v, std::vector<double>(v.size(), 0.0));
}

TEST(GateRegression, RidgeIsGaussianElimination) {
  const Memberships m(400);
  const auto world = single_rank();
  for (const bool bias : {false, true})
    for (const double ridge : {1e-6, 1e-2}) {
      const GateRegression regression(m.x, ridge, bias, *world);
      const GateWeights gate = regression.ridge(m.targets);
      EXPECT_EQ(gate.bias.defined(), bias);
      EXPECT_EQ(regression.jitter(), 0);
      const std::vector<double> expected =
          reference::ridge(m.inputs(bias), to_doubles(m.targets), 400, ridge);
      EXPECT_LE(test::relative_error(weights_of(gate), expected), 2e-6) << ridge;
    }
}

TEST(GateRegression, TheFirstLogisticStepIsRidgeRegression) {
  const Memberships m(400);
  const auto world = single_rank();
  const Tensor centred = m.targets.clone();
  for (std::int64_t i = 0; i < centred.size(); ++i)
    centred.data<float>()[i] = 4 * centred.data<float>()[i] - 2;
  for (const bool bias : {false, true}) {
    const GateRegression regression(m.x, 1e-3, bias, *world);
    EXPECT_LE(test::relative_error(weights_of(regression.logistic(m.targets, 1)),
                                   weights_of(regression.ridge(centred))),
              1e-6);
  }
}

TEST(GateRegression, AStepFollowsTheGradientOfTheTrueLoss) {
  // From W = 0 the step is -4 (X~^T X~ + lambda I)^-1 gradient.
  const Memberships m(200);
  const auto world = single_rank();
  std::vector<double> gradient = m.gradient(std::vector<double>(8 * 3, 0.0), true);
  for (double& g : gradient) g *= -4;
  const std::vector<double> x = m.inputs(true);
  std::vector<double> gram = reference::product(x, true, x, false, 8, 8, 200);
  double mean = 0;
  for (std::size_t j = 0; j < 8; ++j) mean += gram[9 * j] / 8;
  for (std::size_t j = 0; j < 8; ++j) gram[9 * j] += 1e-2 * mean;
  EXPECT_LE(test::relative_error(
                weights_of(GateRegression(m.x, 1e-2, true, *world).logistic(m.targets, 1)),
                reference::solve(gram, gradient, 8)),
            1e-5);
}

TEST(GateRegression, IteratesAsThePlainLoopsDo) {
  const Memberships m(101);
  const auto world = single_rank();
  const std::vector<double> x = m.inputs(true), targets = to_doubles(m.targets);
  std::vector<double> gram = reference::product(x, true, x, false, 8, 8, 101);
  double mean = 0, t = 1;
  for (std::size_t j = 0; j < 8; ++j) mean += gram[9 * j] / 8;
  for (std::size_t j = 0; j < 8; ++j) gram[9 * j] += 1e-2 * mean;
  std::vector<double> w(8 * 3, 0.0), ahead = w;
  for (int i = 0; i < 6; ++i) {
    std::vector<double> rest = reference::product(x, false, ahead, false, 101, 3, 8);
    for (std::size_t j = 0; j < rest.size(); ++j)
      rest[j] = targets[j] - 1 / (1 + std::exp(-rest[j]));
    const std::vector<double> step =
        reference::solve(gram, reference::product(x, true, rest, false, 8, 3, 101), 8);
    const double next = (1 + std::sqrt(1 + 4 * t * t)) / 2;
    for (std::size_t j = 0; j < w.size(); ++j) {
      const double stepped = ahead[j] + 4 * step[j];
      ahead[j] = stepped + (t - 1) / next * (stepped - w[j]);
      w[j] = stepped;
    }
    t = next;
  }
  EXPECT_LE(test::relative_error(
                weights_of(GateRegression(m.x, 1e-2, true, *world).logistic(m.targets, 6)), w),
            1e-5);
}

TEST(GateRegression, EndsWhereTheGradientOfTheTrueLossIsZero) {
  const Memberships m(501);
  const auto world = single_rank();
  for (const bool bias : {false, true}) {
    const GateRegression regression(m.x, 1e-3, bias, *world);
    const std::size_t unknowns = bias ? 8 : 7;
    const double start = norm(m.gradient(std::vector<double>(unknowns * 3, 0.0), bias));
    double before = m.loss(std::vector<double>(unknowns * 3, 0.0), bias);
    for (const int iterations : {1, 4, 16}) {
      const double now = m.loss(weights_of(regression.logistic(m.targets, iterations)), bias);
      EXPECT_LT(now, before) << iterations << " iterations";
      before = now;
    }
    const std::vector<double> end = weights_of(regression.logistic(m.targets, 400));
    EXPECT_LT(norm(m.gradient(end, bias)), 2e-5 * start);
  }
}

TEST(GateRegression, StaysFiniteWhereAPlaneSeparatesTheTokens) {
  const Memberships m(60);
  const auto world = single_rank();
  const Tensor targets = Tensor::zeros({60, 2}, DType::f32);  // all out, and all on one side in
  for (std::int64_t t = 0; t < 60; ++t)
    targets.data<float>()[2 * t + 1] = m.x.data<float>()[7 * t] > 0 ? 1.0f : 0.0f;
  const GateWeights gate = GateRegression(m.x, 1e-3, true, *world).logistic(targets, 60);
  const Tensor logits = gate_logits(gate, m.x);
  for (std::int64_t i = 0; i < logits.size(); ++i) {
    ASSERT_TRUE(std::isfinite(logits.data<float>()[i]));
    EXPECT_EQ(logits.data<float>()[i] > 0, targets.data<float>()[i] > 0) << i;
  }
}

TEST(GateRegression, RanksAgreeWithOneAndThreadsGiveTheSameBits) {
  const Memberships m(2601);  // more than one task
  const auto alone = single_rank();
  const auto fit = [](const Tensor& x, const Tensor& targets, Communicator& world) {
    const GateRegression regression(x, 1e-3, true, world);
    const GateWeights ridge = regression.ridge(targets), mm = regression.logistic(targets, 20);
    return std::vector<Tensor>{ridge.weight, ridge.bias, mm.weight, mm.bias};
  };
  const std::vector<Tensor> one = fit(m.x, m.targets, *alone);
  for (const int ranks : {2, 3})
    run_ranks(ranks, [&](Communicator& world) {
      // The last rank has no tokens.
      const std::int64_t begin = 2601 * world.rank() / (ranks - 1);
      const std::int64_t count =
          world.rank() == ranks - 1 ? 0 : 2601 * (world.rank() + 1) / (ranks - 1) - begin;
      const auto part = [&](const Tensor& t) { return t.slice(count ? begin : 0, count); };
      const std::vector<Tensor> all = fit(part(m.x), part(m.targets), world);
      for (std::size_t i = 0; i < all.size(); ++i)
        EXPECT_TRUE(near(all[i], to_doubles(one[i]), 1e-5)) << ranks << " ranks, output " << i;
    });
  test::expect_same_bits_on_any_threads([&] { return fit(m.x, m.targets, *alone); });
}

TEST(GateRegression, NamesTheRowOfNaNAndTakesInputsThatRepeat) {
  const Memberships m(50);
  const auto world = single_rank();
  m.x.data<float>()[7 * 4 + 1] = std::numeric_limits<float>::infinity();
  try {
    GateRegression(m.x, 1e-3, true, *world);
    ADD_FAILURE() << "no error";
  } catch (const InputError& e) {
    EXPECT_THAT(e.what(), testing::AllOf(testing::HasSubstr("gate"), testing::HasSubstr("4")));
  }
  for (std::int64_t t = 0; t < 50; ++t) m.x.data<float>()[7 * t + 1] = m.x.data<float>()[7 * t];
  const GateRegression regression(m.x, 0, true, *world);
  EXPECT_GT(regression.jitter(), 0);
  for (const double w : weights_of(regression.logistic(m.targets, 10)))
    EXPECT_TRUE(std::isfinite(w));
}

}  // namespace
}  // namespace moe
