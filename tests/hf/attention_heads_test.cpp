// SPDX-License-Identifier: Apache-2.0
#include "hf/attention_heads.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace moe {
namespace {

using ::testing::ElementsAre;

ModelConfig attention(AttentionExpert kind, std::int64_t heads, std::int64_t kv_heads,
                      std::int64_t experts) {
  ModelConfig c;
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.attention_moe.kind = kind;
  c.attention_moe.experts = experts;
  return c;
}

TEST(AttentionHeads, RoutedQueriesServeEveryKeyValueHead) {
  using enum AttentionExpert;
  EXPECT_THAT(expert_query_heads(attention(queries, 8, 2, 2)), ElementsAre(0, 1, 4, 5, 2, 3, 6, 7));
  EXPECT_THAT(expert_query_heads(attention(queries, 8, 2, 4)), ElementsAre(0, 4, 1, 5, 2, 6, 3, 7));
  EXPECT_THAT(expert_query_heads(attention(queries, 6, 2, 3)), ElementsAre(0, 3, 1, 4, 2, 5));
  EXPECT_THROW((void)expert_key_heads(attention(queries, 8, 2, 2)), Error);
}

TEST(AttentionHeads, RoutedHeadsLieInTheOrderOfTheDenseModel) {
  using enum AttentionExpert;
  for (const std::int64_t experts : {1, 2, 4, 8})
    EXPECT_THAT(expert_query_heads(attention(heads, 8, 2, experts)),
                ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(expert_key_heads(attention(heads, 8, 4, 2)), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(expert_key_heads(attention(heads, 8, 4, 4)), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(expert_key_heads(attention(heads, 8, 2, 4)), ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(expert_key_heads(attention(heads, 8, 2, 8)), ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
}

TEST(AttentionHeads, QueryHeadsArePermutedWhateverTheNumbers) {
  for (const AttentionExpert kind : {AttentionExpert::queries, AttentionExpert::heads})
    for (const std::int64_t kv_heads : {1, 2, 4, 8})
      for (const std::int64_t experts : {1, 2, 4}) {
        const std::int64_t heads = 8 * kv_heads;
        std::vector<std::int64_t> order =
            expert_query_heads(attention(kind, heads, kv_heads, experts));
        std::vector<std::int64_t> all(std::size_t(heads), 0);
        std::iota(all.begin(), all.end(), std::int64_t{0});
        std::sort(order.begin(), order.end());
        EXPECT_EQ(order, all);
      }
}

TEST(AttentionHeads, MatricesAreKnownByTheirNames) {
  const auto experts = expert_attention_matrix("layers.12.attention.experts.o.weight");
  ASSERT_TRUE(experts);
  EXPECT_EQ(experts->layer, 12);
  EXPECT_EQ(experts->part, "o");
  const auto dense = dense_attention_matrix("layers.3.attention.k.weight");
  ASSERT_TRUE(dense);
  EXPECT_EQ(dense->layer, 3);
  EXPECT_EQ(dense->part, "k");
  for (const char* other : {"layers.3.experts.up.weight", "layers.3.attention.router.weight",
                            "layers.3.attention_norm.weight", "embed.weight"}) {
    EXPECT_FALSE(expert_attention_matrix(other)) << other;
    EXPECT_FALSE(dense_attention_matrix(other)) << other;
  }
  EXPECT_FALSE(expert_attention_matrix("layers.3.attention.q.weight"));
  EXPECT_FALSE(dense_attention_matrix("layers.3.attention.experts.q.weight"));
}

TEST(AttentionHeads, BlocksAreGatheredAndMatricesTransposed) {
  const Tensor x = Tensor::of<float>({4, 3}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  const Tensor y = gather_blocks(x, {1, 1, 0}, 2);
  EXPECT_THAT(std::vector(y.data<float>(), y.data<float>() + y.size()),
              ElementsAre(6, 7, 8, 9, 10, 11, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5));
  const Tensor t = transposed(x);
  EXPECT_THAT(t.shape(), ElementsAre(3, 4));
  EXPECT_THAT(std::vector(t.data<float>(), t.data<float>() + t.size()),
              ElementsAre(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11));
}

}  // namespace
}  // namespace moe
