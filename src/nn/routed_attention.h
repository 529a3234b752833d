// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "nn/kv_cache.h"
#include "nn/router.h"
#include "ops/attention.h"
#include "ops/permute.h"

namespace moe {

/// Causal self-attention as a mixture of experts (AttentionExpert): each token goes to k of E
/// experts, whose outputs are added up by weight.
///   route -> sort by expert -> queries -> attention over spans of keys -> output -> combine.
/// One attention for all experts. Keys and values are of all tokens, or, with routed heads, of the
/// expert's own rows: a token then sees the earlier tokens of its document that chose the same
/// expert, at their places in the document. The experts stand on every rank: nothing is exchanged.
class RoutedAttention {
 public:
  /// `world` carries the statistics of BalanceScope::step.
  RoutedAttention(const ModelConfig& config, const ParameterStore& parameters, std::int64_t layer,
                  Communicator& world);

  /// x: T[tokens, hidden]. Caches as in Attention::forward.
  SublayerOutput forward(const Variable& x, const ops::RopeTables& tables,
                         const ForwardContext& context, KvCaches caches) const;

 private:
  struct Rows {  // of all experts, one after the other
    ops::Permutation sorted;
    std::vector<std::int64_t> offsets;  // of each expert's rows
    Tensor indices;                     // i32[tokens, k]
    Variable q, k, v;                   // k, v: of all tokens with routed queries
  };
  Variable attend(const Rows& rows, const ops::RopeTables& tables,
                  const ForwardContext& context) const;
  Variable attend_cached(const Rows& rows, const ops::RopeTables& tables,
                         const ForwardContext& context, KvCaches caches) const;
  Variable turned(const Variable& x, const ops::RopeTables& tables, const Tensor& positions) const;
  bool own_keys() const { return kind_ == AttentionExpert::heads; }

  std::int64_t layer_;
  AttentionExpert kind_;
  std::int64_t experts_, heads_, kv_heads_, head_dim_;  // heads: of an expert's rows
  Router router_;
  Variable q_, k_, v_, o_;
};

}  // namespace moe
