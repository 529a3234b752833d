// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

struct Case {
  std::int64_t rows, heads, head_dim, length, first;
};

TEST(CudaRope, AgreesOutOfPlaceInPlaceAndInverse) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const Case& c : {Case{1, 1, 2, 1, 0}, Case{6, 3, 6, 3, 2}, Case{10, 2, 64, 5, 0},
                          Case{3, 33, 16, 3, 7}, Case{4, 5, 128, 4, 1}, Case{0, 2, 8, 3, 0}}) {
      SCOPED_TRACE(str(name(type), " rows ", c.rows, " heads ", c.heads, " of ", c.head_dim));
      const Shape shape = {c.rows, c.heads * c.head_dim};
      const Shape table = {c.first + c.length, c.head_dim / 2};
      const Tensor x = random_tensor(shape, type, 1);
      for (const Tensor& positions :
           {Tensor(), random_indices({c.rows}, 0, std::int32_t(c.first + c.length - 1), 4)})
        expect_agreement(
            [&](Backend& b, auto& out, const auto& in) {
              b.rope(out[0], in[0], in[1], in[2], in[3], c.heads, c.length, c.first, false);
              b.rope(out[1], in[0], in[1], in[2], in[3], c.heads, c.length, c.first, true);
              b.rope(out[2], out[2], in[1], in[2], in[3], c.heads, c.length, c.first, false);
            },
            {poisoned(shape, type), poisoned(shape, type), x},
            {x, random_tensor(table, accumulator(type), 2),
             random_tensor(table, accumulator(type), 3), positions});
    }
}

}  // namespace
}  // namespace moe
