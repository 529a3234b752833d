// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
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

struct Taught {
  std::vector<double> loss, divergence, gradient;
};
/// log softmax of a row divided by a temperature.
std::vector<double> log_softmax(const std::vector<double>& x, std::size_t row, std::size_t cols,
                                double temperature) {
  std::vector<double> out(x.begin() + std::ptrdiff_t(row * cols),
                          x.begin() + std::ptrdiff_t((row + 1) * cols));
  const double largest = *std::max_element(out.begin(), out.end());
  double sum = 0;
  for (double& v : out) sum += std::exp(v = (v - largest) / temperature);
  for (double& v : out) v -= std::log(sum);
  return out;
}
Taught reference(const Tensor& logits, const Tensor& teacher, const Tensor& labels,
                 const DistillationStep& step) {
  const auto x = to_doubles(logits), t = to_doubles(teacher);
  const auto rows = std::size_t(logits.rows()), cols = std::size_t(logits.cols());
  Taught out{std::vector<double>(rows), std::vector<double>(rows), std::vector<double>(x.size())};
  for (std::size_t i = 0; i < rows; ++i) {
    const std::int32_t label = labels.data<std::int32_t>()[i];
    if (label < 0) continue;
    const auto hard = log_softmax(x, i, cols, 1), p = log_softmax(x, i, cols, step.temperature),
               q = log_softmax(t, i, cols, step.temperature);
    out.loss[i] = -hard[std::size_t(label)];
    for (std::size_t j = 0; j < cols; ++j) {
      out.divergence[i] += std::exp(q[j]) * (q[j] - p[j]);
      out.gradient[i * cols + j] =
          step.loss_scale * (std::exp(hard[j]) - (j == std::size_t(label) ? 1 : 0)) +
          step.divergence_scale * step.temperature * (std::exp(p[j]) - std::exp(q[j]));
    }
  }
  return out;
}

TEST(Distillation, MatchesPlainLoops) {
  const PoisonedMemory poisoned;
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const std::int64_t cols : {1, 5, 1000, 8192})
      for (const DistillationStep& step :
           {DistillationStep{1, 0, 0}, DistillationStep{1, 0.3, 0.7},
            DistillationStep{2.5, 0.3, 0.7}, DistillationStep{0.5, 0, 0.7}}) {
        SCOPED_TRACE(str(cols, " at temperature ", step.temperature));
        const Tensor logits = random_tensor({20, cols}, dtype, 1, 4);
        const Tensor teacher = random_tensor({20, cols}, dtype, 3, 4), seen = teacher.clone();
        const Tensor labels = random_indices({20}, -1, std::int32_t(cols - 1), 2);
        labels.data<std::int32_t>()[3] = -1;
        const Taught expected = reference(logits, teacher, labels, step);
        Tensor loss = Tensor::empty({20}, dtype), divergence = Tensor::empty({20}, dtype);
        Tensor x = logits.clone();
        backend(Device::cpu).distillation(loss, divergence, x, teacher, labels, step);
        EXPECT_TRUE(near(loss, expected.loss, tolerance));
        // A sum of terms of both signs, whose order the compiler has a say in.
        EXPECT_TRUE(near(divergence, expected.divergence, 4 * tolerance));
        if (step.divergence_scale == 0)
          EXPECT_TRUE(same_bits(x, logits)) << "logits must stay without a gradient";
        else
          EXPECT_TRUE(near(x, expected.gradient, tolerance));
        EXPECT_TRUE(same_bits(teacher, seen));
      }
}

TEST(Distillation, GradientMatchesCentralDifferences) {
  const Tensor logits = random_tensor({4, 7}, DType::f64, 1, 2),
               teacher = random_tensor({4, 7}, DType::f64, 3, 2);
  const Tensor labels = Tensor::of<std::int32_t>({4}, {6, 0, -1, 3});
  Tensor loss = Tensor::empty({4}, DType::f64), divergence = Tensor::empty({4}, DType::f64);
  for (const double temperature : {1.0, 3.0}) {
    Tensor gradient = logits.clone();
    backend(Device::cpu)
        .distillation(loss, divergence, gradient, teacher, labels, {temperature, 0.25, 0.5});
    const auto total = [&] {
      Tensor x = logits;
      backend(Device::cpu).distillation(loss, divergence, x, teacher, labels, {temperature, 0, 0});
      double sum = 0;
      for (const double l : to_doubles(loss)) sum += 0.25 * l;
      for (const double d : to_doubles(divergence)) sum += 0.5 * temperature * temperature * d;
      return sum;
    };
    EXPECT_TRUE(near(gradient, central_differences(logits, total), 1e-9));
  }
}

TEST(Distillation, AStudentThatIsItsTeacherHasNothingToLearnFromIt) {
  for (const auto& [dtype, tolerance] : kAccumulators) {
    const Tensor teacher = random_tensor({3, 900}, dtype, 1, 6),
                 labels = Tensor::of<std::int32_t>({3}, {0, 1, 899});
    Tensor loss = Tensor::empty({3}, dtype), divergence = Tensor::empty({3}, dtype);
    Tensor x = teacher.clone();
    backend(Device::cpu).distillation(loss, divergence, x, teacher, labels, {2, 0, 1});
    EXPECT_TRUE(near(divergence, {0, 0, 0}, tolerance));
    EXPECT_TRUE(near(x, std::vector<double>(2700), tolerance));
  }
}

TEST(Distillation, TokensTheTeacherRulesOutCountNothingAndThoseOfTheStudentAreInfinitelyFar) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const auto& [dtype, tolerance] : kAccumulators) {
    const Tensor labels = Tensor::of<std::int32_t>({2}, {0, 0});
    const Tensor teacher = from_doubles({2, 3}, dtype, {0, 0, -infinity, 0, 0, 0});
    Tensor x = from_doubles({2, 3}, dtype, {0, 0, 0, 0, 0, -infinity});
    Tensor loss = Tensor::empty({2}, dtype), divergence = Tensor::empty({2}, dtype);
    backend(Device::cpu).distillation(loss, divergence, x, teacher, labels, {1, 0, 0});
    EXPECT_NEAR(to_doubles(divergence)[0], std::log(1.5), 1e-6);
    EXPECT_EQ(to_doubles(divergence)[1], infinity);
  }
}

TEST(Distillation, NaNReachesTheDivergenceOfItsRow) {
  for (const bool of_teacher : {true, false})
    for (const auto& [dtype, tolerance] : kAccumulators) {
      std::vector<double> values(2 * 100, 0.5);
      values[57] = std::numeric_limits<double>::quiet_NaN();
      const Tensor bad = from_doubles({2, 100}, dtype, values),
                   good = from_doubles({2, 100}, dtype, std::vector<double>(200, 0.5));
      Tensor x = (of_teacher ? good : bad).clone();
      Tensor loss = Tensor::empty({2}, dtype), divergence = Tensor::empty({2}, dtype);
      backend(Device::cpu)
          .distillation(loss, divergence, x, of_teacher ? bad : good,
                        Tensor::of<std::int32_t>({2}, {3, 3}), {1, 1, 1});
      EXPECT_EQ(std::isnan(to_doubles(loss)[0]), !of_teacher);
      EXPECT_TRUE(std::isnan(to_doubles(divergence)[0]));
      EXPECT_TRUE(std::isnan(to_doubles(x)[3]));
      EXPECT_NEAR(to_doubles(divergence)[1], 0, 1e-6);
    }
}

TEST(Distillation, SameBitsOnAnyNumberOfThreads) {
  const Tensor logits = random_tensor({60, 1500}, DType::f32, 1),
               teacher = random_tensor({60, 1500}, DType::f32, 3);
  const Tensor labels = random_indices({60}, 0, 1499, 2);
  expect_same_bits_on_any_threads([&] {
    Tensor loss = Tensor::empty({60}, DType::f32), divergence = loss.clone(), x = logits.clone();
    backend(Device::cpu).distillation(loss, divergence, x, teacher, labels, {2, 1, 1});
    return std::vector<Tensor>{loss, divergence, x};
  });
}

}  // namespace
}  // namespace moe
