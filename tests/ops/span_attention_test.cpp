// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "ops/attention.h"
#include "ops/attention_spans.h"
#include "support/document_starts.h"
#include "support/grad_check.h"
#include "support/routed_rows.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using testing::expect_gradients;
using testing::random_f64;

constexpr std::int64_t kExperts = 3, kSequences = 2, kLength = 7;

struct Given {
  Tensor indices = test::random_choices(kSequences * kLength, kExperts, 2, 10, -1, 3);
  Tensor starts = test::random_documents(kSequences, kLength, 5);
  ops::Permutation sorted = ops::sort_by_expert(indices, kExperts);
  test::Routed want = test::routed(indices, kExperts, kSequences, starts);
};

void expect_same(const AttentionSpans& got, const AttentionSpans& want) {
  EXPECT_TRUE(test::same_bits(got.begin, want.begin));
  EXPECT_TRUE(test::same_bits(got.end, want.end));
  EXPECT_TRUE(test::same_bits(got.query_offsets, want.query_offsets));
  EXPECT_TRUE(test::same_bits(got.key_offsets, want.key_offsets));
}

TEST(SpanAttentionOps, RoutedRowsAreThoseOfThePlainLoops) {
  const Given g;
  const auto tokens = ops::rows_over_tokens(g.indices, g.sorted, kSequences, g.starts);
  expect_same(tokens.spans, g.want.over_tokens);
  EXPECT_EQ(tokens.groups, kExperts);
  EXPECT_EQ(tokens.segments, kSequences);
  const auto rows = ops::rows_over_rows(g.indices, g.sorted, kSequences, g.starts);
  expect_same(rows.spans, g.want.over_rows);
  EXPECT_EQ(rows.groups, 1);
  EXPECT_EQ(rows.segments, kExperts * kSequences);
  for (const Tensor& positions : {tokens.positions, rows.positions})
    EXPECT_TRUE(test::same_bits(positions, g.want.positions));
}

TEST(SpanAttentionOps, GradientsMatchCentralDifferences) {
  const Given g;
  const std::int64_t rows = g.sorted.row_to_slot.size();
  for (const bool over_rows : {false, true}) {
    const AttentionSpans& spans = over_rows ? g.want.over_rows : g.want.over_tokens;
    const SpanAttentionShape shape =
        over_rows ? g.want.row_shape(2, 1, 3) : g.want.token_shape(2, 1, 3);
    const std::int64_t keys = over_rows ? rows : kSequences * kLength;
    expect_gradients(
        [&](const auto& in) { return ops::span_attention(in[0], in[1], in[2], spans, shape); },
        {random_f64({rows, 6}, 1), random_f64({keys, 3}, 2), random_f64({keys, 3}, 3)}, 1e-5);
  }
}

TEST(SpanAttentionOps, RefusesTensorsThatDoNotBelongTogether) {
  const Given g;
  const std::int64_t rows = g.sorted.row_to_slot.size();
  const SpanAttentionShape shape = g.want.row_shape(2, 1, 3);
  const Variable q = Variable::constant(random_f64({rows, 6}, 1)),
                 k = Variable::constant(random_f64({rows, 3}, 2));
  const auto attend = [&](const Variable& queries, const Variable& values,
                          const SpanAttentionShape& s) {
    return ops::span_attention(queries, k, values, g.want.over_rows, s);
  };
  EXPECT_NO_THROW(attend(q, k, shape));
  const auto one_less = [&](const Variable& x) {
    return Variable::constant(x.value.slice(0, rows - 1));
  };
  EXPECT_THROW(attend(one_less(q), k, shape), Error);
  EXPECT_THROW(attend(q, one_less(k), shape), Error);
  EXPECT_THROW(attend(q, k, g.want.row_shape(2, 1, 4)), Error);
  EXPECT_THROW(attend(q, k, g.want.row_shape(3, 2, 2)), Error);
  EXPECT_THROW(attend(q, k, g.want.token_shape(2, 1, 3)), Error);
  EXPECT_THROW(ops::rows_over_rows(g.indices, g.sorted, 4, {}), Error);
  EXPECT_THROW(ops::rows_over_rows(g.indices, g.sorted, 2, g.starts.slice(0, 1)), Error);
}

}  // namespace
}  // namespace moe
