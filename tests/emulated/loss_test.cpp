// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

/// One loss without a gradient, one with it written over the logits.
void expect_same_loss(const Tensor& logits, const Tensor& labels) {
  const Tensor blank = poisoned({logits.rows()}, logits.dtype());
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) {
        b.cross_entropy(out[0], out[1], in[0], 0);
        b.cross_entropy(out[2], out[3], in[0], 0.25);
      },
      {blank, logits, blank, logits}, {labels}, 4);
}

TEST(CudaCrossEntropy, AgreesOnRowsOfAnyLength) {
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const std::int64_t cols : {1, 3, 4, 31, 33, 255, 257, 1000, 4099, 32000}) {
      SCOPED_TRACE(str(name(dtype), " ", cols));
      const std::int64_t rows = cols > 4000 ? 2 : 7;
      const Tensor labels = random_indices({rows}, -1, std::int32_t(cols - 1), 2);
      labels.data<std::int32_t>()[0] = std::int32_t(cols - 1);
      labels.data<std::int32_t>()[1] = -1;
      expect_same_loss(random_tensor({rows, cols}, dtype, 1, 4), labels);
    }
}

TEST(CudaCrossEntropy, NoRows) {
  expect_same_loss(Tensor::empty({0, 5}, DType::f32), Tensor::empty({0}, DType::i32));
}

TEST(CudaCrossEntropy, MoreRowsThanBlocksAgree) {
  expect_same_loss(random_tensor({4100, 40}, DType::f32, 1), random_indices({4100}, -1, 39, 2));
}

TEST(CudaCrossEntropy, RowsMayBeginAnywhere) {
  const Tensor logits = random_tensor({6, 64}, DType::f32, 1),
               labels = random_indices({4}, 0, 63, 2);
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) {
        // One element in: rows of 64 that do not begin at 16 bytes.
        Tensor x = out[1].view({384}).slice(1, 256).view({4, 64});
        b.cross_entropy(out[0], x, in[0], 1);
      },
      {poisoned({4}, DType::f32), logits}, {labels}, 4);
}

TEST(CudaCrossEntropy, LogitsGrowingShrinkingAndMinusInfinityAgree) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const auto& [dtype, tolerance] : kAccumulators) {
    const std::int64_t cols = 999;
    std::vector<double> x[4];
    for (std::int64_t j = 0; j < cols; ++j) {
      x[0].push_back(double(j) / 10);
      x[1].push_back(-double(j) / 10);
      x[2].push_back(j % 3 == 1 ? double(j % 7) : -infinity);
      x[3].push_back(j == 500 ? 1e30 : -1e30);
    }
    for (const auto& row : x)
      expect_agreement(
          [](Backend& b, auto& out, const auto& in) { b.cross_entropy(out[0], out[1], in[0], 1); },
          {poisoned({1}, dtype), from_doubles({1, cols}, dtype, row)},
          {Tensor::of<std::int32_t>({1}, {4})}, 4);
  }
}

TEST(CudaCrossEntropy, NaNAndInfinityReachTheLossAndTheGradientOfTheirRow) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    std::vector<double> values(2 * 100, 0.5);
    values[57] = bad;
    const Tensor labels = Tensor::of<std::int32_t>({2}, {3, 3}).to(tested_device());
    Tensor loss = poisoned({2}, DType::f32).to(tested_device());
    Tensor x = from_doubles({2, 100}, DType::f32, values).to(tested_device());
    tested_backend().cross_entropy(loss, x, labels, 1);
    const auto l = to_doubles(loss.to(Device::cpu)), g = to_doubles(x.to(Device::cpu));
    EXPECT_FALSE(std::isfinite(l[0]));
    EXPECT_TRUE(std::isnan(g[3]));
    EXPECT_NEAR(l[1], std::log(100), 1e-5);
  }
}

/// One call without a gradient, two with one written over the student's logits.
void expect_same_distillation(const Tensor& logits, const Tensor& teacher, const Tensor& labels,
                              double slack = 4) {
  const Tensor blank = poisoned({logits.rows()}, logits.dtype());
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) {
        b.distillation(out[0], out[1], out[2], in[0], in[1], {1, 0, 0});
        b.distillation(out[3], out[4], out[5], in[0], in[1], {1, 0.25, 0.5});
        b.distillation(out[6], out[7], out[8], in[0], in[1], {2, 0.25, 0.5});
      },
      {blank, blank, logits, blank, blank, logits, blank, blank, logits}, {teacher, labels}, slack);
}

TEST(CudaDistillation, AgreesOnRowsOfAnyLength) {
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const std::int64_t cols : {1, 3, 4, 33, 257, 1000, 4099}) {
      SCOPED_TRACE(str(name(dtype), " ", cols));
      const std::int64_t rows = cols > 4000 ? 2 : 7;
      const Tensor labels = random_indices({rows}, -1, std::int32_t(cols - 1), 2);
      labels.data<std::int32_t>()[0] = std::int32_t(cols - 1);
      labels.data<std::int32_t>()[1] = -1;
      expect_same_distillation(random_tensor({rows, cols}, dtype, 1, 4),
                               random_tensor({rows, cols}, dtype, 3, 4), labels);
    }
}

TEST(CudaDistillation, NoRowsAndMoreRowsThanBlocksAgree) {
  for (const std::int64_t rows : {0, 4100}) {
    const Tensor blank = poisoned({rows}, DType::f32),
                 logits = random_tensor({rows, 9}, DType::f32, 1);
    expect_agreement(
        [](Backend& b, auto& out, const auto& in) {
          b.distillation(out[0], out[1], out[2], in[0], in[1], {2, 1, 1});
        },
        {blank, blank, logits},
        {random_tensor({rows, 9}, DType::f32, 3), random_indices({rows}, -1, 8, 2)}, 4);
  }
}

TEST(CudaDistillation, TokensThatAreRuledOutAndNaNAgree) {
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor teacher = from_doubles({2, 3}, DType::f32, {0, 0, -infinity, 0, 0, 0});
  expect_same_distillation(from_doubles({2, 3}, DType::f32, {0, 0, 0, 1, 2, 3}), teacher,
                           Tensor::of<std::int32_t>({2}, {0, 2}));
  Tensor loss = poisoned({1}, DType::f32).to(tested_device()), divergence = loss.clone();
  Tensor x = from_doubles({1, 3}, DType::f32, {0, 1, 2}).to(tested_device());
  const Tensor bad =
      from_doubles({1, 3}, DType::f32, {0, std::numeric_limits<double>::quiet_NaN(), 0})
          .to(tested_device());
  tested_backend().distillation(loss, divergence, x, bad,
                                Tensor::of<std::int32_t>({1}, {0}).to(tested_device()), {1, 1, 1});
  EXPECT_TRUE(std::isfinite(to_doubles(loss.to(Device::cpu))[0]));
  EXPECT_TRUE(std::isnan(to_doubles(divergence.to(Device::cpu))[0]));
  EXPECT_TRUE(std::isnan(to_doubles(x.to(Device::cpu))[0]));
}

}  // namespace
}  // namespace moe
