// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "ops/permute.h"

namespace moe::ops {

/// Rows of tokens sorted by expert, as the queries of span_attention.
struct RoutedRows {
  AttentionSpans spans;
  std::int64_t groups, segments;  // see SpanAttentionShape
  Tensor positions;               // i32[rows]: of each row's token in its document, for rope
};

/// Every row sees all tokens of its document up to its own: the keys are the tokens. The groups are
/// the experts, the segments the sequences. indices: i32[tokens, k], what `permutation` sorts,
/// without an order of its own; starts: i32[tokens], where each token's document begins in its
/// sequence, undefined: all 0.
RoutedRows rows_over_tokens(const Tensor& indices, const Permutation& permutation,
                            std::int64_t sequences, const Tensor& starts);

/// Every row sees the rows of its own expert and document up to itself: the keys are the rows. One
/// group, and a segment for each expert and sequence.
RoutedRows rows_over_rows(const Tensor& indices, const Permutation& permutation,
                          std::int64_t sequences, const Tensor& starts);

}  // namespace moe::ops
