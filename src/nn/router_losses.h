// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "comm/communicator.h"
#include "nn/forward_context.h"
#include "ops/routing.h"

namespace moe {

/// One layer's routing while training, all acc[tokens, E] but the weights.
struct RouterScores {
  Variable clean, noisy;   // logits; noisy is clean without noise
  Variable sigma;          // of the noise; no value without noise
  Variable probabilities;  // softmax of noisy over all experts
};

/// One layer's router losses, acc[1] each; those that are off have no value.
struct RouterLosses {
  Variable cv_squared, switch_top_k, z;

  /// Their sum; no value when all are off.
  Variable total() const;
};

/// This rank's share of the losses that run.options ask for: coefficients, and division by the
/// global batch's tokens, included (docs/numerics.md). weights: acc[tokens, k] of routing.indices,
/// the choice before capacity. smooth_load: whether the load of cv_squared is Shazeer's smooth one,
/// or counts. `world` carries the statistics of BalanceScope::step.
RouterLosses router_losses(const RouterScores& scores, const ops::Routing& routing,
                           const Variable& weights, bool smooth_load, const ForwardContext& context,
                           const RoutingContext& run, std::int64_t layer, Communicator& world);

}  // namespace moe
