// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "support/document_starts.h"
#include "support/reference_spans.h"
#include "support/routed_rows.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

const std::vector<Precision> kTypes = {
    {DType::f64, 1e-12}, {DType::f32, 2e-6}, {DType::bf16, 1e-2}};

// Both passes into poisoned outputs.
struct Passes {
  Passes(DType type, const AttentionSpans& spans, const SpanAttentionShape& shape)
      : q(random_tensor({spans.begin.size(), shape.heads * shape.head_dim}, type, 1)),
        k(random_tensor({keys(spans), shape.kv_heads * shape.head_dim}, type, 2)),
        v(random_tensor(k.shape(), type, 3)),
        dout(random_tensor(q.shape(), type, 4)),
        out(poisoned(q.shape(), type)),
        lse(poisoned({q.rows(), shape.heads}, accumulator(type))),
        dq(poisoned(q.shape(), type)),
        dk(poisoned(k.shape(), type)),
        dv(poisoned(k.shape(), type)) {
    run(spans, shape);
  }
  void run(const AttentionSpans& spans, const SpanAttentionShape& shape) {
    cpu_backend().span_attention_forward(out, lse, q, k, v, spans, shape);
    cpu_backend().span_attention_backward(dq, dk, dv, dout, q, k, v, out, lse, spans, shape);
  }
  static std::int64_t keys(const AttentionSpans& spans) {
    const Tensor& offsets = spans.key_offsets;
    return offsets.data<std::int32_t>()[offsets.size() - 1];
  }
  std::vector<Tensor> results() const { return {out, lse, dq, dk, dv}; }

  Tensor q, k, v, dout, out, lse, dq, dk, dv;
};

void expect_reference(const AttentionSpans& spans, const SpanAttentionShape& shape) {
  for (const auto& [type, tolerance] : kTypes) {
    SCOPED_TRACE(str(name(type), ", groups ", shape.groups, ", segments ", shape.segments,
                     ", heads ", shape.heads, " over ", shape.kv_heads, " of ", shape.head_dim));
    const Passes r(type, spans, shape);
    const auto want = reference::span_attention(r.q, r.k, r.v, r.dout, spans, shape);
    EXPECT_TRUE(near(r.out, want.out, tolerance));
    EXPECT_TRUE(near(r.lse, want.lse, type == DType::f64 ? 1e-12 : 1e-6));
    EXPECT_TRUE(near(r.dq, want.dq, tolerance));
    EXPECT_TRUE(near(r.dk, want.dk, tolerance));
    EXPECT_TRUE(near(r.dv, want.dv, tolerance));
  }
}

struct Case {
  std::int64_t experts, k, sequences, length, longest, heads, kv_heads, head_dim;
};
const std::vector<Case> kCases = {
    {4, 2, 2, 33, 0, 2, 2, 8},    {4, 1, 3, 7, 0, 1, 1, 5},   {8, 4, 1, 300, 0, 2, 1, 16},
    {1, 1, 2, 130, 0, 4, 2, 7},   {4, 4, 1, 65, 9, 2, 2, 1},  {4, 3, 2, 380, 300, 1, 1, 8},
    {3, 2, 2, 600, 40, 1, 1, 16}, {16, 2, 1, 50, 3, 1, 1, 6}, {4, 1, 1, 1, 0, 1, 1, 4},
    {1, 1, 1, 560, 0, 1, 1, 8},
};

const Case kSmall = {4, 2, 3, 90, 50, 2, 1, 8};

Routed routed(const Case& c) {
  const Tensor starts =
      c.longest > 0 ? random_documents(c.sequences, c.length, c.longest) : Tensor();
  // Where there are enough, one expert gets no row.
  const Tensor choices = random_choices(c.sequences * c.length, c.experts, c.k,
                                        c.length > 1 ? 5 : 0, c.experts > c.k ? 1 : -1, 5);
  return test::routed(choices, c.experts, c.sequences, starts);
}

TEST(SpanAttention, RowsOverTokensEqualThePlainLoops) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(str(c.experts, " experts, ", c.k, " chosen, length ", c.length));
    expect_reference(routed(c).over_tokens, routed(c).token_shape(c.heads, c.kv_heads, c.head_dim));
  }
}

TEST(SpanAttention, RowsOverRowsEqualThePlainLoops) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(str(c.experts, " experts, ", c.k, " chosen, length ", c.length));
    expect_reference(routed(c).over_rows, routed(c).row_shape(c.heads, c.kv_heads, c.head_dim));
  }
}

TEST(SpanAttention, WholeSequencesOfOneGroupAreDenseAttention) {
  for (const Tensor& starts : {Tensor(), random_documents(2, 300, 90)})
    for (const auto& [type, tolerance] : kTypes) {
      const Routed r = test::routed(Tensor::zeros({600, 1}, DType::i32), 1, 2, starts);
      const Passes spans(type, r.over_tokens, r.token_shape(4, 2, 16));
      Passes dense = spans;
      dense.lse = poisoned({2, 4, 300}, accumulator(type));
      for (Tensor* t : {&dense.out, &dense.dq, &dense.dk, &dense.dv})
        *t = poisoned(t->shape(), type);
      const AttentionShape shape = {2, 300, 300, 4, 2, 16};
      cpu_backend().attention_forward(dense.out, dense.lse, dense.q, dense.k, dense.v, starts,
                                      shape);
      cpu_backend().attention_backward(dense.dq, dense.dk, dense.dv, dense.dout, dense.q, dense.k,
                                       dense.v, dense.out, dense.lse, starts, shape);
      EXPECT_TRUE(near(spans.out, to_doubles(dense.out), tolerance));
      EXPECT_TRUE(near(spans.dq, to_doubles(dense.dq), tolerance));
      EXPECT_TRUE(near(spans.dk, to_doubles(dense.dk), tolerance));
      EXPECT_TRUE(near(spans.dv, to_doubles(dense.dv), tolerance));
      const auto lse = to_doubles(spans.lse), dense_lse = to_doubles(dense.lse);
      for (std::size_t row = 0; row < 600; ++row)
        for (std::size_t h = 0; h < 4; ++h)
          EXPECT_NEAR(lse[row * 4 + h], dense_lse[(row / 300 * 4 + h) * 300 + row % 300], 1e-5);
    }
}

// The rows of one segment are changed and lose their gradients: nothing of another one notices.
TEST(SpanAttention, NothingPassesBetweenSegments) {
  for (const bool over_rows : {false, true})
    for (const auto& [type, tolerance] : kTypes) {
      const Routed r = routed(kSmall);
      const AttentionSpans& spans = over_rows ? r.over_rows : r.over_tokens;
      const SpanAttentionShape shape = over_rows ? r.row_shape(2, 1, 8) : r.token_shape(2, 1, 8);
      const Passes want(type, spans, shape);
      Passes other = want;
      for (Tensor* t :
           {&other.q, &other.k, &other.v, &other.out, &other.lse, &other.dq, &other.dk, &other.dv})
        *t = t->clone();
      other.dout = Tensor::zeros(want.dout.shape(), type);
      const std::int64_t segment = shape.segments - 1;
      const auto* runs = spans.query_offsets.data<std::int32_t>();
      const auto* keys = spans.key_offsets.data<std::int32_t>();
      const auto own_row = [&](std::int64_t row) {
        for (std::int64_t run = segment; run < shape.groups * shape.segments; run += shape.segments)
          if (row >= runs[run] && row < runs[run + 1]) return true;
        return false;
      };
      const auto own_key = [&](std::int64_t key) {
        return key >= keys[segment] && key < keys[segment + 1];
      };
      for (std::int64_t row = 0; row < want.q.rows(); ++row) {
        Tensor q = other.q.slice(row, 1);
        if (own_row(row))
          other.dout.slice(row, 1).copy_from(want.dout.slice(row, 1));
        else
          cpu_backend().scale(q, -3);
      }
      for (std::int64_t key = 0; key < want.k.rows(); ++key)
        if (!own_key(key))
          for (const Tensor& t : {other.k, other.v}) {
            Tensor one = t.slice(key, 1);
            cpu_backend().scale(one, -2);
          }
      other.run(spans, shape);
      const auto zero = [](const Tensor& t) {
        for (const double x : to_doubles(t))
          if (x != 0) return false;
        return true;
      };
      for (std::int64_t row = 0; row < want.q.rows(); ++row) {
        if (own_row(row)) {
          EXPECT_TRUE(same_bits(other.out.slice(row, 1), want.out.slice(row, 1))) << row;
          EXPECT_TRUE(same_bits(other.dq.slice(row, 1), want.dq.slice(row, 1))) << row;
        } else {
          EXPECT_TRUE(zero(other.dq.slice(row, 1))) << row;
        }
      }
      for (std::int64_t key = 0; key < want.k.rows(); ++key)
        for (const auto& [a, b] : {std::pair(other.dk, want.dk), {other.dv, want.dv}}) {
          if (own_key(key))
            EXPECT_TRUE(same_bits(a.slice(key, 1), b.slice(key, 1))) << key;
          else
            EXPECT_TRUE(zero(a.slice(key, 1))) << key;
        }
    }
}

TEST(SpanAttention, KeysThatNobodySeesGetZeros) {
  // Tokens 0 to 9 of 10, of which only the last is a row: of a document that begins at 6.
  Tensor choices = Tensor::empty({10, 1}, DType::i32);
  std::fill_n(choices.data<std::int32_t>(), 9, -1);
  choices.data<std::int32_t>()[9] = 1;
  const Tensor starts = Tensor::zeros({1, 10}, DType::i32);
  set_document(starts, 0, 6, 10);
  const Routed r = test::routed(choices, 2, 1, starts);
  for (const auto& [type, tolerance] : kTypes) {
    const Passes p(type, r.over_tokens, r.token_shape(2, 2, 4));
    for (const Tensor& t : {p.dk, p.dv})
      for (std::int64_t key = 0; key < 10; ++key)
        EXPECT_EQ(relative_error(t.slice(key, 1), std::vector<double>(8)) > 0, key >= 6) << key;
  }
}

TEST(SpanAttention, NoRowsAtAllGiveZeros) {
  const Routed r = test::routed(random_choices(6, 2, 1, 100, -1, 1), 2, 1, {});
  const Passes p(DType::f32, r.over_tokens, r.token_shape(1, 1, 4));
  EXPECT_EQ(to_doubles(p.dk), std::vector<double>(24));
  EXPECT_EQ(to_doubles(p.dv), std::vector<double>(24));
  Passes(DType::f32, r.over_rows, r.row_shape(1, 1, 4));
}

TEST(SpanAttention, RepeatsToTheBitOnAnyThreads) {
  for (const auto& [type, tolerance] : kTypes) {
    const Routed r = routed(kSmall);
    expect_same_bits_on_any_threads(
        [&] { return Passes(type, r.over_tokens, r.token_shape(2, 1, 8)).results(); });
    expect_same_bits_on_any_threads(
        [&] { return Passes(type, r.over_rows, r.row_shape(2, 1, 8)).results(); });
  }
}

TEST(AttentionSpans, FollowFromTheRouting) {
  for (const Case& c : kCases) {
    const Tensor starts =
        c.longest > 0 ? random_documents(c.sequences, c.length, c.longest) : Tensor();
    const Routed r = routed(c);
    Tensor offsets = poisoned({c.experts * c.sequences + 1}, DType::i32);
    cpu_backend().segment_offsets(offsets, r.counts);
    EXPECT_TRUE(same_bits(offsets, r.over_rows.query_offsets));
    const Shape rows = {r.row_to_slot.size()};
    for (const bool over_rows : {false, true}) {
      Tensor begin = poisoned(rows, DType::i32), end = poisoned(rows, DType::i32),
             positions = poisoned(rows, DType::i32);
      cpu_backend().attention_spans(begin, end, positions, r.row_to_slot, c.k, starts, c.length,
                                    over_rows ? offsets : Tensor());
      const AttentionSpans& want = over_rows ? r.over_rows : r.over_tokens;
      EXPECT_TRUE(same_bits(begin, want.begin));
      EXPECT_TRUE(same_bits(end, want.end));
      EXPECT_TRUE(same_bits(positions, r.positions));
    }
  }
}

}  // namespace
}  // namespace moe
