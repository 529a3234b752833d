// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/tensor_graph.h"

namespace moe {

/// Some sequences and heads of an attention: `shape` is that of the part, where a row of q in
/// memory holds row_heads heads and one of k and v row_kv_heads.
struct AttentionPart {
  AttentionShape shape;
  std::int64_t row_heads, row_kv_heads;
};

/// The largest part of `shape` whose scores, as bf16 numbers, take up to score_bytes: whole
/// sequences or, where one is too large, whole groups of heads of one sequence, one at least. It
/// divides the batch (the heads) evenly.
AttentionPart backward_part(const AttentionShape& shape, std::int64_t score_bytes);

/// Backend::attention_forward in bf16 in the form that cuDNN knows as attention, for q_length =
/// kv_length. Arguments in this order: q, k, v, out, lse and, with `documents`, starts. lse is
/// [batch, heads, q_length] of the part, without gaps; starts is [batch, q_length].
TensorGraph attention_forward_graph(const AttentionPart& part, bool documents);

/// Backend::attention_backward likewise. Arguments: q, k, v, out, dout, lse, delta, dq, dk, dv and,
/// with `documents`, starts; delta is memory for <dout, out> of each row, as large as lse.
/// The product that gives dq writes bf16 directly. cuDNN then stores dscores, batch * heads *
/// q_length * kv_length bf16 numbers of workspace, and adds each dq up in a fixed order; given f32
/// memory for dq to be added to, it adds in the order in which blocks happen to end.
TensorGraph attention_backward_graph(const AttentionPart& part, bool documents);

}  // namespace moe
