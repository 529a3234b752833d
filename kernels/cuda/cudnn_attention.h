// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/cudnn_target.h"

namespace moe {

/// Why cuDNN is not asked for an attention on a device of compute capability `capability`
/// (90: 9.0): not bf16, head_dim not a multiple of 8 up to 256, q_length other than kv_length or
/// not a multiple of 64 (every shape costs a plan, about a second: that is for lengths that are met
/// again and again), a device other than 8.x and 9.x. Empty when it is asked. Depends on nothing
/// else, so the same call always takes the same kernels.
std::string why_not_cudnn(const AttentionShape& shape, DType dtype, int capability);

/// What the backward pass of a part may take for its scores: 32 heads of 4096 tokens.
inline constexpr std::int64_t kMaxScoreBytes = std::int64_t{1} << 30;

/// By cuDNN's fused kernels where why_not_cudnn() has no objection and cuDNN has a plan, else by
/// `others`; the log says once for each reason that bf16 goes to these. Plans are made once for
/// each shape and kept. Forward needs next to no memory; backward runs in parts (backward_part)
/// that need 2 * q_length * kv_length bytes for each of their heads, as its sums would vary from
/// run to run otherwise. A mask of documents is part of the graph, so it saves no
/// time; for Ampere cuDNN 9.19 has no plan of its backward pass.
std::unique_ptr<Attention> cudnn_attention(const CudnnTarget& target,
                                           std::unique_ptr<Attention> others,
                                           std::int64_t score_bytes = kMaxScoreBytes);

}  // namespace moe
