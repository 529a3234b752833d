// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "config/model_config.h"
#include "nn/forward_context.h"
#include "nn/parameter_store.h"
#include "ops/attention.h"

namespace moe {

/// Rotary cosines and sines of positions 0..positions-1, angles in f64 (docs/numerics.md).
/// type: f32 or f64.
ops::RopeTables rope_tables(const ModelConfig& config, std::int64_t positions, DType type);

/// Keys and values of the positions seen so far, of one sequence and one layer.
struct KvCache {
  Tensor keys, values;  // T[capacity, kv_heads * head_dim]
  std::int64_t length = 0;
};

/// Causal self-attention with rotary positions and grouped-query heads.
class Attention {
 public:
  Attention(const ModelConfig& config, const ParameterStore& parameters, std::int64_t layer);

  /// x: T[tokens, hidden]. With a cache (one sequence, no tape), new keys and values are appended
  /// to it and the queries see all of it.
  Variable forward(const Variable& x, const ops::RopeTables& tables, const ForwardContext& context,
                   KvCache* cache) const;

 private:
  const ModelConfig& config_;
  Variable q_, k_, v_, o_;
};

}  // namespace moe
