// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

const std::vector<std::int64_t> kSizes = {0, 1, 3, 31, 33, 255, 257, 1000, 5003};
const std::vector<DType> kTypes = {DType::f64, DType::f32, DType::bf16};
constexpr double kTranscendental = 4;  // the CPU's are polynomials, good to 3e-7

TEST(CudaElementwise, ArithmeticAgrees) {
  for (const DType type : kTypes)
    for (const std::int64_t size : kSizes) {
      SCOPED_TRACE(str(name(type), " ", size));
      const std::vector<Tensor> in = {
          random_tensor({size}, type, 1), random_tensor({size}, type, 2),
          random_tensor({size}, type, 3), random_tensor({1}, accumulator(type), 4)};
      const Tensor blank = poisoned({size}, type);
      expect_agreement(
          [](Backend& b, auto& out, const auto& x) {
            b.fill(out[0], 1.75);
            b.add(out[1], x[0], x[1]);
            b.multiply(out[2], x[0], x[1]);
            b.multiply_add(out[3], x[0], x[1], x[2]);
            b.scale(out[4], -0.7);
            b.scale_by(out[5], x[3]);
          },
          {blank, blank, blank, blank, in[0], in[1]}, in);
    }
}

TEST(CudaElementwise, CastAndAddIntoAgreeForAllPairsOfTypes) {
  for (const DType from : kTypes)
    for (const DType to : kTypes)
      for (const std::int64_t size : kSizes) {
        SCOPED_TRACE(str(name(from), " to ", name(to), " ", size));
        expect_agreement(
            [](Backend& b, auto& out, const auto& x) {
              b.cast(out[0], x[0]);
              b.add_into(out[1], x[0]);
            },
            {poisoned({size}, to), random_tensor({size}, to, 2)}, {random_tensor({size}, from, 1)});
      }
}

TEST(CudaElementwise, IntegersAreAddedExactly) {
  const std::int64_t large = std::int64_t{1} << 60;
  expect_agreement([](Backend& b, auto& out, const auto& x) { b.add_into(out[0], x[0]); },
                   {Tensor::of<std::int64_t>({3}, {2, -5, large})},
                   {Tensor::of<std::int64_t>({3}, {1, -7, large})});
}

TEST(CudaElementwise, CastRoundsToEvenAndKeepsNaN) {
  Tensor y = poisoned({4}, DType::bf16).to(tested_device());
  tested_backend().cast(
      y, Tensor::of<float>({4}, {1.00390625f, 1.01171875f, -INFINITY, NAN}).to(tested_device()));
  const auto v = to_doubles(y.to(Device::cpu));
  EXPECT_EQ(v[0], 1.0);
  EXPECT_EQ(v[1], 1.015625);
  EXPECT_EQ(v[2], -INFINITY);
  EXPECT_TRUE(std::isnan(v[3]));
}

TEST(CudaElementwise, ActivationsAgree) {
  for (const DType type : kTypes)
    for (const std::int64_t size : kSizes) {
      SCOPED_TRACE(str(name(type), " ", size));
      const Tensor blank = poisoned({size}, type);
      expect_agreement(
          [](Backend& b, auto& out, const auto& x) {
            b.tanh_forward(out[0], x[0]);
            b.tanh_backward(out[1], x[1], x[2]);
            b.softplus_forward(out[2], x[0], 0.01);
            b.softplus_backward(out[3], x[1], x[0]);
            b.swiglu_forward(out[4], x[0], x[1]);
            b.swiglu_backward(out[5], out[6], out[7], x[2], x[0], x[1]);
          },
          {blank, blank, blank, blank, blank, blank, blank, blank},
          {random_tensor({size}, type, 1, 3), random_tensor({size}, type, 2),
           random_tensor({size}, type, 3)},
          kTranscendental);
    }
}

TEST(CudaElementwise, SwigluBackwardWritesOverItsInputs) {
  for (const DType type : kTypes)
    expect_agreement(
        [](Backend& b, auto& out, const auto&) {
          b.swiglu_backward(out[2], out[0], out[1], out[0], out[1], out[2]);
        },
        {random_tensor({777}, type, 1), random_tensor({777}, type, 2),
         random_tensor({777}, type, 3)},
        {}, kTranscendental);
}

TEST(CudaElementwise, AddressesNeedNotBeAligned) {
  for (const DType type : kTypes) {
    const Tensor x = random_tensor({70, 3}, type, 1), y = random_tensor({70, 3}, type, 2);
    expect_agreement(
        [](Backend& b, auto& out, const auto& in) {
          Tensor part = out[0].slice(1, 67);
          b.add(part, in[0].slice(2, 67), in[1].slice(0, 67));
        },
        {y}, {x, y});
  }
}

TEST(CudaElementwise, SumsAgree) {
  for (const DType type : kTypes)
    for (const std::int64_t size : {0, 1, 3, 255, 257, 5003, 70000}) {
      SCOPED_TRACE(str(name(type), " ", size));
      expect_agreement(
          [](Backend& b, auto& out, const auto& x) {
            b.add_squared_norm(out[0], x[0]);
            b.sum(out[1], x[1]);
          },
          {Tensor::of<double>({1}, {3}), poisoned({1}, accumulator(type))},
          {random_tensor({size}, type, 1), random_tensor({size}, accumulator(type), 2)}, 10);
    }
}

}  // namespace
}  // namespace moe
