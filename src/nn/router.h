// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "comm/communicator.h"
#include "config/model_config.h"
#include "nn/forward_context.h"
#include "nn/parameter_store.h"
#include "nn/router_losses.h"

namespace moe {

/// Where the tokens of a layer go, and how balanced that is.
struct RouterOutput {
  Tensor indices;    // i32[tokens, k]: the experts; -1: padding, or dropped over capacity
  Variable weights;  // acc[tokens, k], without the score scale
  Variable loss;     // acc[1], all router losses of the layer; undefined value: none
};

/// The gate of one layer: logits in at least f32 from a linear map or LLaMA-MoE v1's tanh MLP,
/// noise while training (Shazeer et al. 2017), top-k, weights, capacity and balance losses
/// (docs/numerics.md). Nothing here waits for the device.
class Router {
 public:
  /// `world` carries the statistics of BalanceScope::step.
  Router(const ModelConfig& config, const ParameterStore& parameters, std::int64_t layer,
         Communicator& world);

  /// x: T[tokens, hidden].
  RouterOutput forward(const Variable& x, const ForwardContext& context) const;

 private:
  RouterScores scores(const Variable& x, const ForwardContext& context) const;
  Tensor selection_scores(const RouterScores& scores, const ForwardContext& context) const;
  Tensor within_capacity(const Tensor& chosen, const Tensor& weights,
                         const ForwardContext& context) const;
  void count(const Tensor& chosen, const Tensor& placed, const Tensor& probabilities,
             const RouterLosses& losses, const ForwardContext& context) const;

  const MoeConfig& moe_;
  std::int64_t layer_;
  Communicator& world_;
  Variable linear_, bias_;    // [E, H], [E] when the model has it
  Variable hidden_, output_;  // mlp: [E, H], [E, E]
  Variable noise_;            // [E, H] when the model has it
  Variable selection_bias_;   // acc[E] when the model has it
};

}  // namespace moe
