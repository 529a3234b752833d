// SPDX-License-Identifier: Apache-2.0
#include "split/layer_quality.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "split/gate_training.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using test::random_tensor;

constexpr std::int64_t kNeurons = 10, kHidden = 6, kTokens = 700;

FfnMatrices ffn() {
  return {random_tensor({kNeurons, kHidden}, DType::f32, 1),
          random_tensor({kNeurons, kHidden}, DType::f32, 2),
          random_tensor({kNeurons, kHidden}, DType::f32, 3)};
}

/// Plain loops in double over one token.
struct Token {
  std::vector<double> h, dense;
  Token(const FfnMatrices& f, const Tensor& x, std::int64_t t) : h(kNeurons), dense(kHidden, 0.0) {
    for (std::int64_t n = 0; n < kNeurons; ++n) {
      double g = 0, u = 0;
      for (std::int64_t i = 0; i < kHidden; ++i) {
        g += double(f.gate.data<float>()[n * kHidden + i]) * x.data<float>()[t * kHidden + i];
        u += double(f.up.data<float>()[n * kHidden + i]) * x.data<float>()[t * kHidden + i];
      }
      h[std::size_t(n)] = g / (1 + std::exp(-g)) * u;
    }
    dense = output(std::vector<double>(kNeurons, 1.0), f);
  }
  std::vector<double> output(const std::vector<double>& weight, const FfnMatrices& f) const {
    std::vector<double> y(kHidden, 0.0);
    for (std::size_t n = 0; n < h.size(); ++n)
      for (std::size_t i = 0; i < y.size(); ++i)
        y[i] += weight[n] * h[n] * f.down.data<float>()[n * kHidden + i];
    return y;
  }
};

TEST(LayerQuality, EqualsPlainLoopsForOverlappingAndSharedExperts) {
  const FfnMatrices f = ffn();
  const Tensor x = random_tensor({kTokens, kHidden}, DType::f32, 4);
  const Tensor logits = random_tensor({kTokens, 3}, DType::f32, 5);
  const Partition p{{{0, 1, 2, 7}, {2, 3, 4}, {5, 6}}, {{8, 9}}};  // 2 in two experts
  const TokenRouting routing = route(logits, 2, RouterConfig{});
  const double scale = 1.3;
  const LayerQuality q = measure_layer(x, f, p, routing, scale);

  double dense2 = 0, error2 = 0, target_m = 0, m2 = 0, all = 0, reached = 0;
  std::vector<std::int64_t> load(3, 0);
  std::vector<double> best_scaled_error;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const Token token(f, x, t);
    std::vector<double> routed(kNeurons, 0.0), shared(kNeurons, 0.0);
    std::vector<bool> seen(kNeurons, false);
    for (const std::int64_t n : p.shared[0])
      shared[std::size_t(n)] = 1, seen[std::size_t(n)] = true;
    for (int j = 0; j < 2; ++j) {
      const auto e = routing.experts.data<std::int32_t>()[2 * t + j];
      ++load[std::size_t(e)];
      for (const std::int64_t n : p.experts[std::size_t(e)]) {
        routed[std::size_t(n)] += double(routing.weights.data<float>()[2 * t + j]);
        seen[std::size_t(n)] = true;
      }
    }
    const auto y = token.dense, m = token.output(routed, f), s = token.output(shared, f);
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double target = y[i] - s[i];
      dense2 += y[i] * y[i];
      error2 += (target - scale * m[i]) * (target - scale * m[i]);
      target_m += target * m[i];
      m2 += m[i] * m[i];
    }
    for (std::size_t n = 0; n < token.h.size(); ++n) {
      all += std::abs(token.h[n]);
      if (seen[n]) reached += std::abs(token.h[n]);
    }
  }
  EXPECT_NEAR(q.error, std::sqrt(error2 / dense2), 1e-5);
  EXPECT_NEAR(q.best_scale, target_m / m2, 1e-5);
  EXPECT_NEAR(q.recall, reached / all, 1e-6);
  EXPECT_EQ(q.load, load);
  EXPECT_LE(q.best_error, q.error);
  EXPECT_GE(q.best_recall, q.recall);
  EXPECT_NEAR(measure_layer(x, f, p, routing, q.best_scale).error, q.best_error, 1e-6);
}

TEST(LayerQuality, AllExpertsOfAnExactPartitionLoseNothing) {
  const FfnMatrices f = ffn();
  const Tensor x = random_tensor({40, kHidden}, DType::f32, 4);
  const Partition p{{{0, 3, 5}, {1, 2, 4}, {6, 7, 8, 9}}};
  const LayerQuality q =
      measure_layer(x, f, p, route(Tensor::zeros({40, 3}, DType::f32), 3, RouterConfig{}), 3);
  EXPECT_LT(q.error, 1e-6);
  EXPECT_NEAR(q.best_scale, 3, 1e-5);
  EXPECT_NEAR(q.recall, 1, 1e-6);
  for (const double c : q.channel_scale) EXPECT_NEAR(c, 1, 1e-5);
}

TEST(LayerQuality, ChannelScalesGiveTheRoutedPartTheVarianceOfItsTarget) {
  const FfnMatrices f = ffn();
  const Tensor x = random_tensor({kTokens, kHidden}, DType::f32, 4);
  const Partition p{{{0, 1, 2, 3}, {4, 5, 6}}, {{7, 8, 9}}};
  const TokenRouting routing = route(random_tensor({kTokens, 2}, DType::f32, 6), 1, RouterConfig{});
  const LayerQuality q = measure_layer(x, f, p, routing, 1.7);
  FfnMatrices aligned = f;
  aligned.down = f.down.clone();
  for (const auto& expert : p.experts)
    for (const std::int64_t n : expert)
      for (std::int64_t i = 0; i < kHidden; ++i)
        aligned.down.data<float>()[n * kHidden + i] *= float(q.channel_scale[std::size_t(i)]);
  for (std::int64_t i = 0; i < kHidden; ++i) {
    double target = 0, target2 = 0, m1 = 0, m2 = 0;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const Token token(f, x, t);
      std::vector<double> shared(kNeurons, 0.0), routed(kNeurons, 0.0);
      for (const std::int64_t n : p.shared[0]) shared[std::size_t(n)] = 1;
      for (const std::int64_t n : p.experts[std::size_t(routing.experts.data<std::int32_t>()[t])])
        routed[std::size_t(n)] = 1.7;
      const double y = token.dense[std::size_t(i)] - token.output(shared, f)[std::size_t(i)];
      const double m = token.output(routed, aligned)[std::size_t(i)];
      target += y, target2 += y * y, m1 += m, m2 += m * m;
    }
    const double n = double(kTokens);
    EXPECT_NEAR((m2 - m1 * m1 / n) / (target2 - target * target / n), 1, 1e-3) << "channel " << i;
  }
}

TEST(LayerQuality, OverlapIsTheMeanJaccardSimilarity) {
  EXPECT_EQ(neuron_overlap({{0, 1}, {2, 3}}), 0);
  EXPECT_NEAR(neuron_overlap({{0, 1, 2}, {1, 2, 3}, {0, 1, 2}}), (0.5 + 1 + 0.5) / 3, 1e-12);
  EXPECT_EQ(neuron_overlap({{0}}), 0);
}

TEST(GateTraining, LearnsWhichExpertsFireMost) {
  const Tensor x = random_tensor({2000, 12}, DType::f32, 7);
  const Tensor truth = random_tensor({4, 12}, DType::f32, 8);
  GateWeights linear;
  linear.weight = truth;
  const Tensor targets = best_experts(gate_logits(linear, x), 1);
  for (const GateKind kind : {GateKind::linear, GateKind::mlp}) {
    const Tensor chosen =
        route(gate_logits(train_gate(kind, x, targets, 1, 0), x), 1, RouterConfig{}).experts;
    std::int64_t right = 0;
    for (std::int64_t t = 0; t < 2000; ++t)
      right += targets.data<float>()[t * 4 + chosen.data<std::int32_t>()[t]] == 1;
    EXPECT_GT(right, kind == GateKind::linear ? 1940 : 1800) << int(kind);
  }
}

TEST(GateTraining, TargetsNameTheLargestMasses) {
  const Tensor mass = Tensor::of<float>({2, 3}, {1, 3, 2, 5, 5, 0});
  EXPECT_EQ(test::to_doubles(best_experts(mass, 2, 0.5)), (std::vector<double>{0, .5, .5, .5, .5, 0}));
}

}  // namespace
}  // namespace moe
