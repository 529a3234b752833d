// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

struct Case {
  std::int64_t vocabulary, width, positions;
};
const std::vector<Case> kCases = {{1, 1, 1},     {5, 3, 0},     {17, 33, 31},   {3, 24, 1500},
                                  {1100, 8, 33}, {40, 257, 80}, {1300, 9, 1025}};

TEST(CudaEmbedding, BackwardAgreesWithInvalidAndFrequentIds) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const auto& [vocabulary, width, positions] : kCases) {
      SCOPED_TRACE(str(name(type), " ", vocabulary, "x", width, ", ", positions));
      expect_agreement(
          [](Backend& b, auto& out, const auto& in) { b.embedding_backward(out[0], in[0], in[1]); },
          {poisoned({vocabulary, width}, accumulator(type))},
          {random_tensor({positions, width}, type, 1),
           random_indices({positions}, -1, std::int32_t(vocabulary) - 1, 2)});
    }
}

TEST(CudaEmbedding, ForwardAgreesAndInvalidIdsGiveZeros) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const auto& [vocabulary, width, positions] : kCases)
      expect_agreement(
          [](Backend& b, auto& out, const auto& in) { b.embedding_forward(out[0], in[0], in[1]); },
          {poisoned({positions, width}, type)},
          {random_tensor({vocabulary, width}, type, 1),
           random_indices({positions}, -1, std::int32_t(vocabulary) - 1, 2)});
}

TEST(CudaEmbedding, BackwardOfIdsThatAreAllInvalidIsZero) {
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) { b.embedding_backward(out[0], in[0], in[1]); },
      {poisoned({6, 10}, DType::f32)},
      {random_tensor({700, 10}, DType::f32, 1), random_indices({700}, -1, -1, 2)});
}

}  // namespace
}  // namespace moe
