// SPDX-License-Identifier: Apache-2.0
#include "split/down_refit.h"

#include <gmock/gmock.h>

#include "support/reference_least_squares.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using test::near;
using test::random_tensor;
using test::to_doubles;

/// Tokens that choose 2 of 3 uneven experts, one of them rarely, beside shared neurons.
struct Layer {
  std::vector<std::int64_t> sizes = {5, 9, 3};
  std::int64_t shared = 4, neurons = 21, hidden = 6, tokens;
  Tensor activations, down, targets;
  TokenRouting routing;

  explicit Layer(std::int64_t count, bool weighted = false) : tokens(count) {
    activations = random_tensor({tokens, neurons}, DType::f32, 1);
    down = random_tensor({neurons, hidden}, DType::f32, 2);
    targets = random_tensor({tokens, hidden}, DType::f32, 3, 0.5);
    for (std::int64_t t = 0; t < tokens; ++t)  // what the dense layer puts out, and noise
      for (std::int64_t n = 0; n < neurons; ++n)
        for (std::int64_t j = 0; j < hidden; ++j)
          targets.data<float>()[t * hidden + j] +=
              activations.data<float>()[t * neurons + n] * down.data<float>()[n * hidden + j];
    routing.experts = Tensor::empty({tokens, 2}, DType::i32);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int32_t left_out = t % 7 == 0 ? 0 : t % 7 == 1 ? 1 : 2;
      routing.experts.data<std::int32_t>()[2 * t] = (left_out + 2) % 3;
      routing.experts.data<std::int32_t>()[2 * t + 1] = (left_out + 1) % 3;
    }
    if (!weighted) return;
    routing.weights = random_tensor({tokens, 2}, DType::f32, 4);
  }

  /// What the down projection is multiplied by, and a column for each bias after the neurons.
  std::vector<double> masked(bool bias) const {
    const std::int64_t width = neurons + (bias ? 3 : 0);
    std::vector<double> f(std::size_t(tokens * width), 0.0);
    for (std::int64_t t = 0; t < tokens; ++t) {
      double mask[4] = {0, 0, 0, 1};
      for (std::int64_t j = 2 * t; j < 2 * t + 2; ++j)
        mask[routing.experts.data<std::int32_t>()[j]] =
            routing.weights.defined() ? routing.weights.data<float>()[j] : 1;
      for (std::int64_t n = 0; n < neurons; ++n)
        f[std::size_t(t * width + n)] =
            double(activations.data<float>()[t * neurons + n]) * mask[n < 5    ? 0
                                                                      : n < 14 ? 1
                                                                      : n < 17 ? 2
                                                                               : 3];
      for (std::int64_t e = 0; bias && e < 3; ++e)
        f[std::size_t(t * width + neurons + e)] = mask[e];
    }
    return f;
  }

  DownRefit refit(double ridge, bool bias) const {
    DownRefitter refitter(sizes, shared, hidden, bias);
    const std::int64_t cut = tokens / 3;
    refitter.add(activations.slice(0, cut), part(0, cut), targets.slice(0, cut));
    refitter.add(activations.slice(cut, tokens - cut), part(cut, tokens - cut),
                 targets.slice(cut, tokens - cut));
    EXPECT_EQ(refitter.rows(), tokens);
    return refitter.solve(ridge, down);
  }
  TokenRouting part(std::int64_t first, std::int64_t count) const {
    return {routing.experts.slice(first, count),
            routing.weights.defined() ? routing.weights.slice(first, count) : Tensor{}};
  }
};

std::vector<double> with_bias(const DownRefit& refit) {
  std::vector<double> w = to_doubles(refit.down);
  if (!refit.bias.defined()) return w;
  const std::vector<double> bias = to_doubles(refit.bias);
  w.insert(w.end(), bias.begin(), bias.end());
  return w;
}

TEST(DownRefit, IsTheDenseSolutionForTheMaskedActivations) {
  for (const bool weighted : {false, true})
    for (const bool bias : {false, true})
      for (const double ridge : {1e-6, 1e-3, 1e-1}) {
        const Layer layer(400, weighted);
        const DownRefit refit = layer.refit(ridge, bias);
        std::vector<double> prior = to_doubles(layer.down);
        if (bias) prior.resize(prior.size() + std::size_t(3 * layer.hidden), 0);
        const std::vector<double> expected =
            reference::ridge(layer.masked(bias), to_doubles(layer.targets), 400, ridge, prior);
        EXPECT_EQ(refit.bias.defined(), bias);
        EXPECT_LE(test::relative_error(with_bias(refit), expected), 1e-6)
            << "bias " << bias << ", weights " << weighted << ", ridge " << ridge;
      }
}

TEST(DownRefit, NeverRaisesTheCalibrationErrorAndSaysWhatItBecomes) {
  for (const std::int64_t tokens : {3, 15, 60, 500})
    for (const bool bias : {false, true})
      for (const double ridge : {0.0, 1e-3, 10.0}) {
        const Layer layer(tokens);
        const DownRefit refit = layer.refit(ridge, bias);
        const auto measured = [&](const std::vector<double>& w, bool with) {
          return reference::relative_residual(layer.masked(with), to_doubles(layer.targets), w,
                                              std::size_t(tokens));
        };
        const double before = measured(to_doubles(layer.down), false);
        const double after = measured(with_bias(refit), bias);
        EXPECT_LE(after, before) << tokens << " tokens, ridge " << ridge;
        EXPECT_NEAR(refit.error, after, 1e-6 * before);
      }
}

TEST(DownRefit, KeepsTheWeightsOfADenseLayerThatHasAllItsExperts) {
  Layer layer(200);
  layer.routing.experts = Tensor::empty({200, 3}, DType::i32);
  for (std::int64_t i = 0; i < 600; ++i) layer.routing.experts.data<std::int32_t>()[i] = i % 3;
  layer.targets = Tensor::zeros({200, 6}, DType::f32);
  for (std::int64_t t = 0; t < 200; ++t)
    for (std::int64_t n = 0; n < 21; ++n)
      for (std::int64_t j = 0; j < 6; ++j)
        layer.targets.data<float>()[t * 6 + j] +=
            layer.activations.data<float>()[t * 21 + n] * layer.down.data<float>()[n * 6 + j];
  const DownRefit refit = layer.refit(1e-3, false);
  EXPECT_TRUE(near(refit.down, to_doubles(layer.down), 1e-6));
  EXPECT_LT(refit.error, 1e-12);
}

TEST(DownRefit, NamesTheNeuronThatDependsOnOthersAndAnExpertWithoutTokensKeepsItsWeights) {
  Layer layer(300);
  for (std::int64_t t = 0; t < 300; ++t) {
    float* h = layer.activations.data<float>() + t * 21;
    h[19] = h[18];  // shared
    layer.routing.experts.data<std::int32_t>()[2 * t] = 0;
    layer.routing.experts.data<std::int32_t>()[2 * t + 1] = 2;
  }
  const DownRefit ridged = layer.refit(1e-3, true), plain = layer.refit(0, false);
  EXPECT_EQ(ridged.dependent, -1);
  EXPECT_EQ(plain.dependent, 5);  // expert 1 has no tokens, so its first neuron is zero
  EXPECT_GT(plain.jitter, 0);
  for (const DownRefit& refit : {ridged, plain})
    EXPECT_TRUE(near(refit.down.slice(5, 9), to_doubles(layer.down.slice(5, 9)), 1e-5));
}

TEST(DownRefit, RanksAgreeWithOneAndThreadsGiveTheSameBits) {
  const Layer layer(300, true);
  const DownRefit one = layer.refit(1e-3, true);
  for (const int ranks : {2, 3})
    run_ranks(ranks, [&](Communicator& world) {
      DownRefitter refitter(layer.sizes, layer.shared, layer.hidden, true);
      const std::int64_t begin = 300 * world.rank() / ranks;
      const std::int64_t count = 300 * (world.rank() + 1) / ranks - begin;
      refitter.add(layer.activations.slice(begin, count), layer.part(begin, count),
                   layer.targets.slice(begin, count));
      refitter.add_ranks(world);
      EXPECT_EQ(refitter.rows(), 300);
      const DownRefit refit = refitter.solve(1e-3, layer.down, &world);
      EXPECT_TRUE(near(refit.down, to_doubles(one.down), 1e-7)) << ranks << " ranks";
      EXPECT_TRUE(near(refit.bias, to_doubles(one.bias), 1e-6)) << ranks << " ranks";
    });
  test::expect_same_bits_on_any_threads([&] {
    const DownRefit refit = layer.refit(1e-3, true);
    return std::vector<Tensor>{refit.down, refit.bias};
  });
}

TEST(DownRefit, RefusesChoicesThatAreNotThere) {
  Layer layer(20);
  layer.routing.experts.data<std::int32_t>()[9] = 3;
  EXPECT_THROW(layer.refit(1e-3, false), Error);
  layer.routing.experts.data<std::int32_t>()[9] = layer.routing.experts.data<std::int32_t>()[8];
  EXPECT_THROW(layer.refit(1e-3, false), Error);
}

}  // namespace
}  // namespace moe
