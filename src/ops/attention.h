// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"
#include "kernels/backend.h"

namespace moe::ops {

/// Cosines and sines of rotary positions: acc[positions, head_dim / 2] each.
struct RopeTables {
  Tensor cos, sin;
};

/// Rotates each head of x by its row's position: positions[row] where they are defined
/// (i32[rows], below first_position + length), else first_position + row % length. x: [rows,
/// heads * head_dim].
Variable rope(const Variable& x, const RopeTables& tables, const Tensor& positions,
              std::int64_t heads, std::int64_t length, std::int64_t first_position);

/// Causal grouped-query attention, within documents where `starts` is defined; see
/// Backend::attention_forward for shapes.
Variable attention(const Variable& q, const Variable& k, const Variable& v, const Tensor& starts,
                   const AttentionShape& shape);

/// Attention of rows that each see a span of the keys; see Backend::span_attention_forward for
/// shapes.
Variable span_attention(const Variable& q, const Variable& k, const Variable& v,
                        const AttentionSpans& spans, const SpanAttentionShape& shape);

}  // namespace moe::ops
