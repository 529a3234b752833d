// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "kernels/backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

constexpr double kScale = 0.25;

struct Reference {
  std::vector<double> loss, gradient;
};
Reference reference(const Tensor& logits, const Tensor& labels) {
  const auto x = to_doubles(logits);
  const auto cols = std::size_t(logits.cols());
  Reference out{std::vector<double>(std::size_t(logits.rows())), std::vector<double>(x.size())};
  for (std::size_t i = 0; i < out.loss.size(); ++i) {
    const std::int32_t label = labels.data<std::int32_t>()[i];
    if (label < 0) continue;
    double largest = x[i * cols], sum = 0;
    for (std::size_t j = 0; j < cols; ++j) largest = std::max(largest, x[i * cols + j]);
    for (std::size_t j = 0; j < cols; ++j) sum += std::exp(x[i * cols + j] - largest);
    out.loss[i] = largest + std::log(sum) - x[i * cols + std::size_t(label)];
    for (std::size_t j = 0; j < cols; ++j)
      out.gradient[i * cols + j] =
          kScale * (std::exp(x[i * cols + j] - largest) / sum - (j == std::size_t(label) ? 1 : 0));
  }
  return out;
}

TEST(CrossEntropy, MatchesPlainLoops) {
  const PoisonedMemory poisoned;
  for (const auto& [dtype, tolerance] : kAccumulators) {
    for (const std::int64_t cols : {1, 5, 1000, 8192}) {
      SCOPED_TRACE(cols);
      const Tensor logits = random_tensor({20, cols}, dtype, 1, 4);
      const Tensor labels = random_indices({20}, -1, std::int32_t(cols - 1), 2);
      labels.data<std::int32_t>()[3] = -1;
      const Reference expected = reference(logits, labels);
      Tensor loss = Tensor::empty({20}, dtype), x = logits.clone();
      backend(Device::cpu).cross_entropy(loss, x, labels, 0);
      EXPECT_TRUE(near(loss, expected.loss, tolerance));
      EXPECT_TRUE(same_bits(x, logits)) << "logits must stay without a gradient";
      backend(Device::cpu).cross_entropy(loss, x, labels, kScale);
      EXPECT_TRUE(near(loss, expected.loss, tolerance));
      EXPECT_TRUE(near(x, expected.gradient, tolerance));
    }
  }
}

TEST(CrossEntropy, GradientMatchesCentralDifferences) {
  const Tensor logits = random_tensor({4, 7}, DType::f64, 1, 2);
  const Tensor labels = Tensor::of<std::int32_t>({4}, {6, 0, -1, 3});
  Tensor loss = Tensor::empty({4}, DType::f64), gradient = logits.clone();
  backend(Device::cpu).cross_entropy(loss, gradient, labels, kScale);
  EXPECT_TRUE(near(gradient,
                   central_differences(logits,
                                       [&] {
                                         Tensor x = logits;
                                         backend(Device::cpu).cross_entropy(loss, x, labels, 0);
                                         double sum = 0;
                                         for (const double l : to_doubles(loss)) sum += l;
                                         return kScale * sum;
                                       }),
                   1e-9));
}

TEST(CrossEntropy, LargeLogitsDoNotOverflow) {
  for (const auto& [dtype, tolerance] : kAccumulators) {
    const Tensor labels = Tensor::of<std::int32_t>({2}, {1, 0});
    Tensor loss = Tensor::empty({2}, dtype),
           x = from_doubles({2, 2}, dtype, {1e30, -1e30, 1e30, 0});
    backend(Device::cpu).cross_entropy(loss, x, labels, 1);
    EXPECT_TRUE(near(loss, {2e30, 0}, tolerance));
    EXPECT_TRUE(near(x, {1, -1, 0, 0}, tolerance));
  }
}

TEST(CrossEntropy, NaNAndInfinityReachTheLossAndTheGradientOfTheirRow) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const auto& [dtype, tolerance] : kAccumulators) {
      std::vector<double> values(2 * 100, 0.5);
      values[57] = bad;
      const Tensor labels = Tensor::of<std::int32_t>({2}, {3, 3});
      Tensor loss = Tensor::empty({2}, dtype), x = from_doubles({2, 100}, dtype, values);
      backend(Device::cpu).cross_entropy(loss, x, labels, 0);
      EXPECT_FALSE(std::isfinite(to_doubles(loss)[0]));
      backend(Device::cpu).cross_entropy(loss, x, labels, 1);
      EXPECT_FALSE(std::isfinite(to_doubles(loss)[0]));
      EXPECT_TRUE(std::isnan(to_doubles(x)[3]));
      EXPECT_NEAR(to_doubles(loss)[1], std::log(100), 1e-5);
    }
  }
}

TEST(CrossEntropy, SameBitsOnAnyNumberOfThreads) {
  const Tensor logits = random_tensor({60, 1500}, DType::f32, 1);
  const Tensor labels = random_indices({60}, 0, 1499, 2);
  expect_same_bits_on_any_threads([&] {
    Tensor loss = Tensor::empty({60}, DType::f32), x = logits.clone();
    backend(Device::cpu).cross_entropy(loss, x, labels, 1);
    return std::vector<Tensor>{loss, x};
  });
}

}  // namespace
}  // namespace moe
