// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "support/document_starts.h"
#include "support/routed_rows.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

struct Case {
  std::int64_t experts, k, sequences, length, longest, heads, kv_heads, head_dim;
};
const std::vector<Case> kCases = {
    {4, 2, 2, 33, 0, 2, 2, 8},   {4, 1, 3, 7, 0, 1, 1, 5},     {1, 1, 1, 40, 0, 2, 1, 24},
    {4, 4, 1, 34, 9, 2, 2, 1},   {3, 2, 2, 40, 17, 2, 1, 16},  {16, 2, 1, 20, 3, 1, 1, 40},
    {2, 1, 1, 70, 0, 1, 1, 200}, {2, 1, 1, 40, 25, 1, 1, 100}, {2, 2, 3, 20, 0, 2, 1, 65},
    {1, 1, 2, 66, 50, 1, 1, 3},
};

Tensor starts_of(const Case& c) {
  return c.longest > 0 ? random_documents(c.sequences, c.length, c.longest) : Tensor();
}
Routed routed(const Case& c) {
  const Tensor choices = random_choices(c.sequences * c.length, c.experts, c.k,
                                        c.length > 1 ? 5 : 0, c.experts > c.k ? 1 : -1, 5);
  return test::routed(choices, c.experts, c.sequences, starts_of(c));
}

void expect_both_passes(const AttentionSpans& spans, const SpanAttentionShape& s, DType type) {
  SCOPED_TRACE(str(name(type), ", groups ", s.groups, ", segments ", s.segments, ", heads ",
                   s.heads, " over ", s.kv_heads, " of ", s.head_dim));
  const auto* offsets = spans.key_offsets.data<std::int32_t>();
  const Shape queries = {spans.begin.size(), s.heads * s.head_dim};
  const Shape keys = {offsets[s.segments], s.kv_heads * s.head_dim};
  const Shape stored = {queries[0], s.heads};
  const Tensor q = random_tensor(queries, type, 1), k = random_tensor(keys, type, 2),
               v = random_tensor(keys, type, 3), dout = random_tensor(queries, type, 4);
  Tensor out = empty_like(q), lse = Tensor::empty(stored, accumulator(type));
  cpu_backend().span_attention_forward(out, lse, q, k, v, spans, s);
  expect_agreement(
      [&](Backend& b, auto& results, const auto& in) {
        const AttentionSpans there = {in[6], in[7], in[8], in[9]};
        b.span_attention_forward(results[0], results[1], in[0], in[1], in[2], there, s);
        b.span_attention_backward(results[2], results[3], results[4], in[3], in[0], in[1], in[2],
                                  in[4], in[5], there, s);
      },
      {poisoned(queries, type), poisoned(stored, accumulator(type)), poisoned(queries, type),
       poisoned(keys, type), poisoned(keys, type)},
      {q, k, v, dout, out, lse, spans.begin, spans.end, spans.query_offsets, spans.key_offsets}, 8);
}

TEST(CudaSpanAttention, ForwardAndBackwardAgree) {
  for (const Case& c : kCases) {
    const Routed r = routed(c);
    for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
      // One kind of rows is enough for the types that take the same code.
      if (type != DType::f32)
        expect_both_passes(r.over_tokens, r.token_shape(c.heads, c.kv_heads, c.head_dim), type);
      if (type != DType::bf16)
        expect_both_passes(r.over_rows, r.row_shape(c.heads, c.kv_heads, c.head_dim), type);
    }
  }
}

TEST(CudaSpanAttention, NoRowsAgree) {
  const Routed r = test::routed(random_choices(6, 2, 1, 100, -1, 1), 2, 1, {});
  expect_both_passes(r.over_tokens, r.token_shape(1, 1, 4), DType::f32);
  expect_both_passes(r.over_rows, r.row_shape(1, 1, 4), DType::f32);
}

TEST(CudaAttentionSpans, Agree) {
  for (const Case& c : kCases) {
    const Routed r = routed(c);
    const Tensor rows = poisoned({r.row_to_slot.size()}, DType::i32);
    expect_agreement(
        [&](Backend& b, auto& out, const auto& in) {
          b.segment_offsets(out[0], in[0]);
          b.attention_spans(out[1], out[2], out[3], in[1], c.k, in[2], c.length, {});
          b.attention_spans(out[4], out[5], out[6], in[1], c.k, in[2], c.length, out[0]);
        },
        {poisoned({c.experts * c.sequences + 1}, DType::i32), rows, rows, rows, rows, rows, rows},
        {r.counts, r.row_to_slot, starts_of(c)});
  }
}

TEST(CudaAttentionSpans, OffsetsOfManyRuns) {
  const Tensor counts = Tensor::empty({40, 33}, DType::i64);
  for (std::int64_t i = 0; i < counts.size(); ++i) counts.data<std::int64_t>()[i] = i % 7 * (i % 3);
  expect_agreement([](Backend& b, auto& out, const auto& in) { b.segment_offsets(out[0], in[0]); },
                   {poisoned({40 * 33 + 1}, DType::i32)}, {counts});
}

}  // namespace
}  // namespace moe
