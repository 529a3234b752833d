// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

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

/// What one half of a layer adds to its tokens, and the router losses that came with it.
struct SublayerOutput {
  Variable y;     // T[tokens, hidden]
  Variable loss;  // acc[1]; undefined value: none
};

/// The gate of the experts of one layer's feed-forward or attention: logits in at least f32 from a
/// linear map or LLaMA-MoE v1's tanh MLP, noise while training (Shazeer et al. 2017), top-k,
/// weights, capacity and balance losses (docs/numerics.md). Nothing here waits for the device.
class Router {
 public:
  enum class Of : std::uint8_t { ffn, attention };

  /// `world` carries the statistics of BalanceScope::step.
  Router(const ModelConfig& config, const ParameterStore& parameters, Of what, std::int64_t layer,
         Communicator& world);

  /// x: T[tokens, hidden].
  RouterOutput forward(const Variable& x, const ForwardContext& context) const;

  /// The factor on the weighted sum of experts. Where weights are the softmax over the chosen, it
  /// grows with the experts that the context chooses, so that one expert's mean share stays.
  double score_scale(const ForwardContext& context) const;

 private:
  std::int64_t top_k(const ForwardContext& context) const {
    const std::int64_t k = routing(context).top_k;
    return k > 0 ? k : config_.top_k;
  }
  RouterScores scores(const Variable& x, const ForwardContext& context) const;
  Tensor selection_scores(const RouterScores& scores, const ForwardContext& context) const;
  Tensor within_capacity(const Tensor& chosen, const Tensor& weights,
                         const ForwardContext& context) const;
  void count(const Tensor& chosen, const Tensor& placed, const Tensor& probabilities,
             const RouterLosses& losses, const ForwardContext& context) const;

  const RoutingContext& routing(const ForwardContext& context) const {
    return what_ == Of::ffn ? context.routing : context.attention_routing;
  }

  const RouterConfig& config_;
  Of what_;
  std::int64_t layer_;
  Communicator& world_;
  Variable linear_, bias_;    // [E, H], [E] when the model has it
  Variable hidden_, output_;  // mlp: [E, H], [E, E]
  Variable noise_;            // [E, H] when the model has it
  Variable weight_scale_;     // [E] of unit weights
  Variable selection_bias_;   // acc[E] when the model has it
};

}  // namespace moe
