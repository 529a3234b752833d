// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

TEST(CudaRandom, NormalNumbersAreThoseOfTheCpu) {
  const std::vector<Philox> streams = {Philox(1, RandomPurpose::gate_noise, {7}),
                                       Philox(1, RandomPurpose::gate_noise, {8}),
                                       Philox(2, RandomPurpose::gate_noise, {7})};
  for (const DType type : {DType::f64, DType::f32})
    for (const std::int64_t rows : {0, 3, 33, 999})
      expect_agreement([&](Backend& b, auto& out, const auto&) { b.normal(out[0], streams); },
                       {poisoned({rows, 5}, type)}, {});
}

}  // namespace
}  // namespace moe
