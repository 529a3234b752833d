// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

constexpr AdamWStep kStep = {1e-2, 0.9, 0.95, 1e-8, 0.1, 0.7, 1 - 0.9 * 0.9, 1 - 0.95 * 0.95};

Tensor squares(std::int64_t size, DType type) {
  Tensor v = random_tensor({size}, type, 4);
  cpu_backend().multiply(v, v, v);
  return v;
}

TEST(CudaAdamW, AgreesWithAMasterCopyAndWithout) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const std::int64_t size : {0, 1, 3, 31, 33, 257, 5003}) {
      SCOPED_TRACE(str(name(type), " ", size));
      const DType acc = accumulator(type);
      expect_agreement(
          [](Backend& b, auto& out, const auto& in) {
            b.adamw(out[0], out[1], out[2], out[3], in[0], kStep);
            b.adamw(out[4], out[4], out[5], out[6], in[0], kStep);
          },
          {poisoned({size}, type), random_tensor({size}, acc, 1), random_tensor({size}, acc, 2),
           squares(size, acc), random_tensor({size}, acc, 5), random_tensor({size}, acc, 6),
           squares(size, acc)},
          {random_tensor({size}, acc, 3)});
    }
}

TEST(CudaAdamW, ShardsMayBeginAnywhere) {
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) {
        std::vector<Tensor> part;
        for (const Tensor& t : out) part.push_back(t.slice(3, 94));
        b.adamw(part[0], part[1], part[2], part[3], in[0].slice(1, 94), kStep);
      },
      {random_tensor({100}, DType::bf16, 9), random_tensor({100}, DType::f32, 1),
       random_tensor({100}, DType::f32, 2), squares(100, DType::f32)},
      {random_tensor({100}, DType::f32, 3)});
}

}  // namespace
}  // namespace moe
