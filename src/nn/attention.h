// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "config/model_config.h"
#include "nn/forward_context.h"
#include "nn/kv_cache.h"
#include "nn/parameter_store.h"
#include "ops/attention.h"

namespace moe {

/// Rotary cosines and sines of positions 0..positions-1, angles in f64 (docs/numerics.md).
/// type: f32 or f64.
ops::RopeTables rope_tables(const ModelConfig& config, std::int64_t positions, DType type);

/// Causal self-attention with rotary positions and grouped-query heads.
class Attention {
 public:
  Attention(const ModelConfig& config, const ParameterStore& parameters, std::int64_t layer);

  /// x: T[tokens, hidden]. With caches (no tape), new keys and values are written behind those of
  /// their sequence and the queries see all of it; KvCache::length stays as it is.
  Variable forward(const Variable& x, const ops::RopeTables& tables, const ForwardContext& context,
                   KvCaches caches) const;

 private:
  Tensor attend_cached(const Tensor& q, const Tensor& k, const Tensor& v,
                       const ops::RopeTables& tables, std::int64_t length, KvCaches caches) const;

  const ModelConfig& config_;
  std::int64_t layer_;
  Variable q_, k_, v_, o_;
};

}  // namespace moe
