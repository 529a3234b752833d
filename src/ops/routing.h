// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"
#include "kernels/backend.h"

namespace moe::ops {

/// Which experts each token goes to.
struct Routing {
  std::int64_t k = 0;
  Tensor top_values;   // acc[tokens, min(k+1, E)]: the largest scores in descending order
  Tensor top_indices;  // i32, the same shape: their experts; -1 where the token is padding
  Tensor indices;      // i32[tokens, k]: the chosen experts
};

/// The k largest scores of each token, ties to the lowest index. scores: acc[tokens, E]; valid:
/// u8[tokens], 0 marks padding, undefined: none. Chosen once even when the block is recomputed.
Routing choose_experts(const Tensor& scores, std::int64_t k, const Tensor& valid);

/// indices with -1 where an expert has as many heavier pairs of the same segment as capacities[s]
/// allows; see Backend::drop_over_capacity. Decided once even when the block is recomputed.
Tensor drop_over_capacity(const Tensor& indices, const Tensor& weights, const Tensor& capacities);

/// Weights of the chosen experts: acc[tokens, k]. See RouterWeights.
Variable router_weights(const Variable& logits, const Tensor& indices, RouterWeights form);

/// 1 + scale[e] p for each chosen expert e with probability p. probabilities: acc[tokens, k] (of
/// router_weights); scale: [E], converted to that type.
Variable unit_weights(const Variable& probabilities, const Variable& scale, const Tensor& indices);

/// y[t,:] = factor * sum_j weights[t,j] * bias[indices[t,j],:], nothing where the index is -1.
/// weights: acc[tokens, k]; bias: [E, hidden]; y: `out`[tokens, hidden].
Variable weighted_bias(const Variable& weights, const Tensor& indices, const Variable& bias,
                       double factor, DType out);

/// Softmax over each row.
Variable softmax(const Variable& logits);

/// acc[tokens, E] with weights[t,j] at column indices[t,j].
Variable scatter_columns(const Variable& weights, const Tensor& indices, std::int64_t experts);

/// Sums over `segments` equal runs of consecutive tokens: acc[segments, E]. Padding adds nothing.
Variable segment_sum(const Variable& x, std::int64_t segments, const Tensor& valid);

/// The probability that each expert is chosen if its own noise is drawn again; see
/// Backend::noisy_load_forward.
Variable noisy_load(const Variable& clean, const Variable& noisy, const Variable& sigma,
                    const Routing& routing, bool v1_formula);

/// sum_s segment_weights[s] * CV^2(x[s,:]); see Backend::cv_squared_forward.
Variable cv_squared(const Variable& x, const Tensor& segment_weights);

/// See Backend::switch_loss_forward. p: sums of probabilities, counts: i64, both [segments, E].
Variable switch_loss(const Variable& p, const Tensor& counts, const Tensor& segment_weights);

/// factor * sum over valid tokens of logsumexp(logits)^2.
Variable z_loss(const Variable& logits, const Tensor& valid, double factor);

}  // namespace moe::ops
