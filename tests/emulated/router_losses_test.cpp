// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/routing_inputs.h"
#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

constexpr double kTranscendental = 4;  // the CPU's are polynomials, good to 3e-7

Tensor positive(Shape shape, DType dtype, std::uint64_t seed) {
  Tensor x = random_tensor(std::move(shape), dtype, seed);
  std::vector<double> values = to_doubles(x);
  for (double& v : values) v = 0.5 + std::fabs(v);
  return from_doubles(x.shape(), dtype, values);
}

TEST(CudaNoisyLoad, AgreesInBothFormulas) {
  struct Sizes {
    std::int64_t tokens, experts, k;
  };
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const auto& [tokens, experts, k] :
         std::vector<Sizes>{{0, 4, 2}, {1, 2, 1}, {33, 3, 2}, {31, 33, 8}, {9, 257, 4}})
      for (const bool compatible : {false, true}) {
        SCOPED_TRACE(str(name(dtype), " ", tokens, " x ", experts, ", ", k));
        const Shape shape = {tokens, experts};
        const Tensor clean = random_tensor(shape, dtype, 1), noise = random_tensor(shape, dtype, 2),
                     sigma = positive(shape, dtype, 3), noisy = empty_like(clean);
        Tensor sum = noisy;
        cpu_backend().multiply_add(sum, clean, noise, sigma);
        Tensor top = poisoned({tokens, k + 1}, dtype),
               index = poisoned({tokens, k + 1}, DType::i32);
        cpu_backend().topk(top, index, noisy, some_valid(tokens));
        const Tensor blank = poisoned(shape, dtype);
        expect_agreement(
            [compatible](Backend& b, auto& out, const auto& in) {
              b.noisy_load_forward(out[0], in[0], in[1], in[2], in[3], in[4], compatible);
              b.noisy_load_backward(out[1], out[2], out[3], in[5], in[0], in[1], in[2], in[3],
                                    in[4], compatible);
            },
            {blank, blank, blank, blank},
            {clean, noisy, sigma, top, index, random_tensor(shape, dtype, 4)}, kTranscendental);
      }
}

TEST(CudaCvSquared, AgreesOnAnyNumberOfSegmentsAndExperts) {
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const std::int64_t segments : {0, 1, 3, 31, 257})
      for (const std::int64_t experts : {1, 3, 33, 257}) {
        SCOPED_TRACE(str(name(dtype), " ", segments, " x ", experts));
        expect_agreement(
            [](Backend& b, auto& out, const auto& in) {
              b.cv_squared_forward(out[0], in[0], in[1]);
              b.cv_squared_backward(out[1], in[0], in[1]);
            },
            {poisoned({1}, dtype), poisoned({segments, experts}, dtype)},
            {positive({segments, experts}, dtype, 1), random_tensor({segments}, dtype, 2)}, 10);
      }
}

TEST(CudaSwitchLoss, AgreesAlsoWhereSegmentsHaveNoTokens) {
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const std::int64_t segments : {0, 1, 3, 31, 257})
      for (const std::int64_t experts : {1, 3, 33, 257}) {
        SCOPED_TRACE(str(name(dtype), " ", segments, " x ", experts));
        Tensor counts = Tensor::empty({segments, experts}, DType::i64);
        for (std::int64_t i = 0; i < counts.size(); ++i)
          counts.data<std::int64_t>()[i] = i / experts % 3 == 1 ? 0 : i * 7 % 11;
        expect_agreement(
            [](Backend& b, auto& out, const auto& in) {
              b.switch_loss_forward(out[0], in[0], in[1], in[2]);
              b.switch_loss_backward(out[1], in[0], in[1], in[2]);
            },
            {poisoned({1}, dtype), poisoned({segments, experts}, dtype)},
            {positive({segments, experts}, dtype, 1), counts, positive({segments}, dtype, 2)});
      }
}

TEST(CudaZLoss, AgreesAndSkipsInvalidTokens) {
  for (const auto& [dtype, tolerance] : kAccumulators)
    for (const std::int64_t tokens : {0, 1, 3, 257})
      for (const std::int64_t experts : {1, 8, 33}) {
        SCOPED_TRACE(str(name(dtype), " ", tokens, " x ", experts));
        const Tensor blank = poisoned({tokens, experts}, dtype);
        expect_agreement(
            [](Backend& b, auto& out, const auto& in) {
              b.z_loss_forward(out[0], in[0], in[1], 0.3);
              b.z_loss_forward(out[1], in[0], {}, 0.3);
              b.z_loss_backward(out[2], in[0], in[1], 0.3);
              b.z_loss_backward(out[3], in[0], {}, 0.3);
            },
            {poisoned({1}, dtype), poisoned({1}, dtype), blank, blank},
            {random_tensor({tokens, experts}, dtype, 1, 3), some_valid(tokens)}, kTranscendental);
      }
}

TEST(CudaZLoss, MoreTokensThanAllBlocksTakeAtOnceAgree) {
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) { b.z_loss_forward(out[0], in[0], {}, 0.3); },
      {poisoned({1}, DType::f32)}, {random_tensor({9001, 3}, DType::f32, 1)}, kTranscendental);
}

}  // namespace
}  // namespace moe
