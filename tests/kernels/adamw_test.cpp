// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "kernels/backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

constexpr std::int64_t kSize = 70001;

AdamWStep step_number(int t) {
  return {3e-3, 0.9, 0.95, 1e-8, 0.1, 0.5, 1 - std::pow(0.9, t), 1 - std::pow(0.95, t)};
}

struct State {
  std::vector<double> w, m, v;
};
void step(State& s, const std::vector<double>& gradient, const AdamWStep& p) {
  for (std::size_t i = 0; i < s.w.size(); ++i) {
    const double g = gradient[i] * p.gradient_scale;
    s.m[i] = p.beta1 * s.m[i] + (1 - p.beta1) * g;
    s.v[i] = p.beta2 * s.v[i] + (1 - p.beta2) * g * g;
    s.w[i] -=
        p.learning_rate * ((s.m[i] / p.correction1) / (std::sqrt(s.v[i] / p.correction2) + p.eps) +
                           p.weight_decay * s.w[i]);
  }
}

TEST(AdamW, ThreeStepsMatchPlainLoops) {
  for (const auto& [dtype, tolerance] : kPrecisions) {
    const DType acc = accumulator(dtype);
    Tensor master = random_tensor({kSize}, acc, 1), m = Tensor::zeros({kSize}, acc),
           v = Tensor::zeros({kSize}, acc);
    Tensor weight = dtype == acc ? master : Tensor::empty({kSize}, dtype);
    const std::vector<double> before = to_doubles(master);
    State expected{before, to_doubles(m), to_doubles(v)};
    for (int t = 1; t <= 3; ++t) {
      const Tensor g = random_tensor({kSize}, acc, 10 + std::uint64_t(t));
      backend(Device::cpu).adamw(weight, master, m, v, g, step_number(t));
      step(expected, to_doubles(g), step_number(t));
    }
    const double acc_tolerance = std::min(tolerance, 5e-7);
    EXPECT_TRUE(near(master, expected.w, acc_tolerance));
    EXPECT_TRUE(near(m, expected.m, acc_tolerance));
    EXPECT_TRUE(near(v, expected.v, acc_tolerance));
    EXPECT_TRUE(same_bits(weight, from_doubles({kSize}, dtype, to_doubles(master))));
    EXPECT_GT(relative_error(master, before), 1e-3) << "the weights must have moved";
  }
}

TEST(AdamW, MayKeepASeparateMasterOfTheSameType) {
  Tensor master = random_tensor({50}, DType::f32, 1), m = Tensor::zeros({50}, DType::f32),
         v = Tensor::zeros({50}, DType::f32), weight = Tensor::zeros({50}, DType::f32);
  backend(Device::cpu)
      .adamw(weight, master, m, v, random_tensor({50}, DType::f32, 2), step_number(1));
  EXPECT_TRUE(same_bits(weight, master));
}

TEST(AdamW, ANaNGradientIsSeenInTheWeight) {
  Tensor w = random_tensor({33}, DType::f32, 1), m = Tensor::zeros({33}, DType::f32),
         v = Tensor::zeros({33}, DType::f32), g = random_tensor({33}, DType::f32, 2);
  g.data<float>()[20] = std::numeric_limits<float>::quiet_NaN();
  backend(Device::cpu).adamw(w, w, m, v, g, step_number(1));
  EXPECT_TRUE(std::isnan(w.data<float>()[20]));
  EXPECT_TRUE(std::isfinite(w.data<float>()[19]));
}

TEST(AdamW, SameBitsOnAnyNumberOfThreads) {
  const Tensor g = random_tensor({kSize}, DType::f32, 2);
  expect_same_bits_on_any_threads([&] {
    Tensor w = random_tensor({kSize}, DType::f32, 1), m = Tensor::zeros({kSize}, DType::f32),
           v = Tensor::zeros({kSize}, DType::f32);
    backend(Device::cpu).adamw(w, w, m, v, g, step_number(1));
    return std::vector<Tensor>{w, m, v};
  });
}

}  // namespace
}  // namespace moe
