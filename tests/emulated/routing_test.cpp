// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "emulated/routing_inputs.h"
#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

struct Sizes {
  std::int64_t tokens, experts, k;
};
const std::vector<Sizes> kSizes = {{0, 4, 2},   {1, 1, 1},    {3, 3, 3},    {31, 8, 2},
                                   {33, 31, 5}, {257, 33, 9}, {65, 257, 8}, {9, 1000, 40}};

TEST(CudaTopK, AgreesWithTiesAndInvalidTokens) {
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const auto& [tokens, experts, k] : kSizes) {
      SCOPED_TRACE(str(name(dtype), " ", tokens, " x ", experts, ", ", k));
      const Tensor scores = with_ties(random_tensor({tokens, experts}, dtype, 1));
      expect_agreement(
          [](Backend& b, auto& out, const auto& in) {
            b.topk(out[0], out[1], in[0], in[1]);
            b.topk(out[2], out[3], in[0], {});
            b.leading_columns(out[4], out[3]);
          },
          {poisoned({tokens, k}, dtype), poisoned({tokens, k}, DType::i32),
           poisoned({tokens, k}, dtype), poisoned({tokens, k}, DType::i32),
           poisoned({tokens, (k + 1) / 2}, DType::i32)},
          {scores, some_valid(tokens)}, 0);
    }
}

TEST(CudaTopK, MoreTokensThanAllWarpsTakeAtOnceAgree) {
  const std::int64_t tokens = 33000;
  expect_agreement([](Backend& b, auto& out, const auto& in) { b.topk(out[0], out[1], in[0], {}); },
                   {poisoned({tokens, 1}, DType::f32), poisoned({tokens, 1}, DType::i32)},
                   {random_tensor({tokens, 2}, DType::f32, 1)}, 0);
}

TEST(CudaTopK, NaNIsChosenFirstAndInfinitiesHaveTheirPlace) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  const Tensor scores = Tensor::of<float>({3, 4}, {1, nan, infinity, nan, nan, nan, nan, nan,
                                                   -infinity, -infinity, -infinity, -infinity});
  for (const std::int64_t m : {1, 3, 4})
    in_every_order([&] {
      const Tensor x = scores.to(tested_device());
      Tensor values = poisoned({3, m}, DType::f32).to(tested_device());
      Tensor indices = poisoned({3, m}, DType::i32).to(tested_device());
      tested_backend().topk(values, indices, x, {});
      const std::vector<double> best = {1, 3, 2, 0};
      const auto got = to_doubles(indices.to(Device::cpu));
      for (std::int64_t j = 0; j < m; ++j) {
        EXPECT_EQ(got[std::size_t(j)], best[std::size_t(j)]);
        EXPECT_EQ(got[std::size_t(m + j)], double(j));
        EXPECT_EQ(got[std::size_t(2 * m + j)], double(j));
      }
    });
}

TEST(CudaRouterSoftmax, Agrees) {
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const auto& [tokens, experts, k] : kSizes) {
      SCOPED_TRACE(str(name(dtype), " ", tokens, " x ", experts));
      const Shape shape = {tokens, experts};
      expect_agreement(
          [](Backend& b, auto& out, const auto& in) {
            b.softmax_forward(out[0], in[0]);
            b.softmax_backward(out[1], in[1], in[2]);
          },
          {poisoned(shape, dtype), poisoned(shape, dtype)},
          {random_tensor(shape, dtype, 1, 3), random_tensor(shape, dtype, 2),
           random_tensor(shape, dtype, 3)},
          4);
    }
}

TEST(CudaRouterWeights, AgreeInBothFormsWithDroppedPairsAndInvalidTokens) {
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const auto& [tokens, experts, k] : kSizes)
      for (const RouterWeights form :
           {RouterWeights::softmax_of_chosen, RouterWeights::softmax_of_all}) {
        SCOPED_TRACE(str(name(dtype), " ", tokens, " x ", experts, ", ", k, " form ", int(form)));
        const Tensor logits = random_tensor({tokens, experts}, dtype, 1, 2);
        const Tensor indices = chosen_experts(logits, k);
        const Tensor dw = random_tensor({tokens, k}, dtype, 2);
        Tensor w = poisoned({tokens, k}, dtype);
        cpu_backend().router_weights_forward(w, logits, indices, form);
        expect_agreement(
            [form](Backend& b, auto& out, const auto& in) {
              b.router_weights_forward(out[0], in[0], in[1], form);
              b.router_weights_backward(out[1], in[2], in[3], in[0], in[1], form);
            },
            {poisoned({tokens, k}, dtype), poisoned({tokens, experts}, dtype)},
            {logits, indices, dw, w}, 4);
      }
}

TEST(CudaRouterWeights, LargeLogitsDoNotOverflow) {
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const RouterWeights form :
         {RouterWeights::softmax_of_chosen, RouterWeights::softmax_of_all})
      expect_agreement(
          [form](Backend& b, auto& out, const auto& in) {
            b.router_weights_forward(out[0], in[0], in[1], form);
            b.softmax_forward(out[1], in[0]);
          },
          {poisoned({1, 2}, dtype), poisoned({1, 3}, dtype)},
          {from_doubles({1, 3}, dtype, {-1e30, 1e30, 1e30}),
           Tensor::of<std::int32_t>({1, 2}, {1, 2})});
}

TEST(CudaColumns, ScatterAndGatherAgree) {
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const auto& [tokens, experts, k] : kSizes) {
      SCOPED_TRACE(str(name(dtype), " ", tokens, " x ", experts, ", ", k));
      const Tensor dense = random_tensor({tokens, experts}, dtype, 1);
      expect_agreement(
          [](Backend& b, auto& out, const auto& in) {
            b.scatter_columns(out[0], in[0], in[2]);
            b.gather_columns(out[1], in[1], in[2]);
          },
          {poisoned({tokens, experts}, dtype), poisoned({tokens, k}, dtype)},
          {random_tensor({tokens, k}, dtype, 2), dense, chosen_experts(dense, k)}, 0);
    }
}

}  // namespace
}  // namespace moe
