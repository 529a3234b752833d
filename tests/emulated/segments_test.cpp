// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "emulated/routing_inputs.h"
#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

TEST(CudaSegments, CountsAgree) {
  struct Sizes {
    std::int64_t tokens, k, segments, experts;
  };
  for (const auto& [tokens, k, segments, experts] : std::vector<Sizes>{{0, 2, 1, 4},
                                                                       {1, 1, 1, 1},
                                                                       {33, 1, 33, 3},
                                                                       {300, 2, 3, 7},
                                                                       {1023, 3, 3, 31},
                                                                       {2048, 2, 1, 257},
                                                                       {70, 2, 2, 1024}}) {
    SCOPED_TRACE(str(tokens, " x ", k, " in ", segments, ", ", experts));
    expect_agreement([](Backend& b, auto& out, const auto& in) { b.count_experts(out[0], in[0]); },
                     {poisoned({segments, experts}, DType::i64)},
                     {random_indices({tokens, k}, -1, std::int32_t(experts - 1), 1)});
  }
}

TEST(CudaSegments, MoreSegmentsThanBlocksAgree) {
  const std::int64_t segments = 4100;
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) {
        b.count_experts(out[0], in[0]);
        b.segment_sum(out[1], in[1], {});
      },
      {poisoned({segments, 40}, DType::i64), poisoned({segments, 3}, DType::f32)},
      {random_indices({2 * segments, 2}, -1, 39, 1),
       random_tensor({2 * segments, 3}, DType::f32, 2)});
}

TEST(CudaSegments, MoreExpertsThanCountersAreRefused) {
  Tensor counts = Tensor::empty({1, 1025}, DType::i64, tested_device());
  EXPECT_THROW(tested_backend().count_experts(
                   counts, Tensor::of<std::int32_t>({1, 1}, {0}).to(tested_device())),
               Error);
}

TEST(CudaSegments, SumsAndBroadcastsAgree) {
  struct Sizes {
    std::int64_t tokens, segments, cols;
  };
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const auto& [tokens, segments, cols] : std::vector<Sizes>{{0, 1, 4},
                                                                   {1, 1, 1},
                                                                   {33, 33, 3},
                                                                   {60, 4, 31},
                                                                   {1030, 2, 5},
                                                                   {1537, 1, 33},
                                                                   {513, 1, 257},
                                                                   {8, 2, 1000}}) {
      SCOPED_TRACE(str(name(dtype), " ", tokens, " x ", cols, " in ", segments));
      expect_agreement(
          [](Backend& b, auto& out, const auto& in) {
            b.segment_sum(out[0], in[0], in[1]);
            b.segment_sum(out[1], in[0], {});
            b.segment_broadcast(out[2], in[2], in[1]);
            b.segment_broadcast(out[3], in[2], {});
          },
          {poisoned({segments, cols}, dtype), poisoned({segments, cols}, dtype),
           poisoned({tokens, cols}, dtype), poisoned({tokens, cols}, dtype)},
          {random_tensor({tokens, cols}, dtype, 1), some_valid(tokens),
           random_tensor({segments, cols}, dtype, 2)});
    }
}

TEST(CudaSegments, ManySmallTermsAreNotLost) {
  const std::int64_t tokens = 1 << 17;
  const Tensor x = Tensor::empty({tokens, 1}, DType::f32);
  std::fill_n(x.data<float>(), tokens, 0.1f);
  Tensor sum = poisoned({1, 1}, DType::f32).to(tested_device());
  tested_backend().segment_sum(sum, x.to(tested_device()), {});
  EXPECT_TRUE(near(sum.to(Device::cpu), {double(tokens) * double(0.1f)}, 1e-7));
}

TEST(CudaCapacity, AgreesWithTiesNaNAndDroppedPairs) {
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const std::vector<std::int64_t>& capacities : {std::vector<std::int64_t>{7},
                                                        {0, 1000},
                                                        {1, 2, 3, 4, 5},
                                                        std::vector<std::int64_t>(60, 1)}) {
      SCOPED_TRACE(str(name(dtype), " ", capacities.size(), " segments"));
      const Tensor weights = with_ties(random_tensor({60, 5}, dtype, 2));
      for (const std::int64_t i : {17, 18, 140})
        for_accumulator(
            dtype, [&]<class A>(A) { weights.data<A>()[i] = std::numeric_limits<A>::quiet_NaN(); });
      expect_agreement([](Backend& b, auto& out,
                          const auto& in) { b.drop_over_capacity(out[0], in[0], in[1], in[2]); },
                       {poisoned({60, 5}, DType::i32)},
                       {random_indices({60, 5}, -1, 3, 1), weights,
                        Tensor::of<std::int64_t>({std::int64_t(capacities.size())}, capacities)});
    }
}

TEST(CudaCapacity, NoTokens) {
  expect_agreement([](Backend& b, auto& out,
                      const auto& in) { b.drop_over_capacity(out[0], in[0], in[1], in[2]); },
                   {Tensor::empty({0, 2}, DType::i32)},
                   {Tensor::empty({0, 2}, DType::i32), Tensor::empty({0, 2}, DType::f32),
                    Tensor::of<std::int64_t>({1}, {3})});
}

}  // namespace
}  // namespace moe
