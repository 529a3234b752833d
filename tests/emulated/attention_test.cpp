// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "support/document_starts.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

const std::vector<AttentionShape> kShapes = {
    {1, 1, 1, 1, 1, 1},
    {2, 3, 3, 2, 2, 8},
    {1, 33, 33, 4, 2, 6},
    {1, 31, 31, 3, 1, 16},
    {2, 1, 70, 4, 2, 32},
    {1, 5, 37, 2, 1, 5},
    {1, 65, 65, 2, 2, 40},
    {1, 2, 3, 1, 1, 257},
    {1, 0, 4, 2, 1, 8},
    // On a device these are cuDNN's in bf16.
    {2, 64, 64, 4, 2, 64},
    {1, 128, 128, 2, 2, 128},
    {1, 192, 192, 2, 1, 8},
};

void expect_both_passes(const AttentionShape& s, DType type, const Tensor& starts) {
  SCOPED_TRACE(str(name(type), " batch ", s.batch, " queries ", s.q_length, " keys ", s.kv_length,
                   " heads ", s.heads, "/", s.kv_heads, " of ", s.head_dim));
  const Shape queries = {s.batch * s.q_length, s.heads * s.head_dim};
  const Shape keys = {s.batch * s.kv_length, s.kv_heads * s.head_dim};
  const Shape stored = {s.batch, s.heads, s.q_length};
  const Tensor q = random_tensor(queries, type, 1), k = random_tensor(keys, type, 2),
               v = random_tensor(keys, type, 3), dout = random_tensor(queries, type, 4);
  Tensor out = empty_like(q), lse = Tensor::empty(stored, accumulator(type));
  if (s.q_length > 0) cpu_backend().attention_forward(out, lse, q, k, v, starts, s);
  expect_agreement(
      [&](Backend& b, auto& results, const auto& in) {
        b.attention_forward(results[0], results[1], in[0], in[1], in[2], in[6], s);
        b.attention_backward(results[2], results[3], results[4], in[3], in[0], in[1], in[2], in[4],
                             in[5], in[6], s);
      },
      {poisoned(queries, type), poisoned(stored, accumulator(type)), poisoned(queries, type),
       poisoned(keys, type), poisoned(keys, type)},
      {q, k, v, dout, out, lse, starts}, 8);
}

TEST(CudaAttention, ForwardAndBackwardAgree) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const AttentionShape& s : kShapes) expect_both_passes(s, type, {});
}

TEST(CudaAttention, AgreesWithinDocuments) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    for (const std::int64_t longest : {5, 50})
      expect_both_passes({2, 70, 70, 4, 2, 8}, type, random_documents(2, 70, longest));
    expect_both_passes({3, 33, 33, 2, 1, 6}, type, random_starts(3, 33));
    expect_both_passes({2, 128, 128, 2, 1, 16}, type, random_documents(2, 128, 90));
  }
}

}  // namespace
}  // namespace moe
