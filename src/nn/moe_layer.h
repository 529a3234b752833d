// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "comm/process_grid.h"
#include "nn/router.h"
#include "nn/shared_experts.h"
#include "ops/expert_exchange.h"

namespace moe {

/// The dense feed-forward of one layer: SwiGLU over all neurons.
class DenseFfn {
 public:
  DenseFfn(const ParameterStore& parameters, std::int64_t layer);
  SublayerOutput forward(const Variable& x) const;

 private:
  Variable gate_, up_, down_;
};

/// The mixture of experts of one layer, its experts spread over an expert group. Each token's row
/// goes to the ranks that hold its k experts and back:
///   route -> sort by expert -> dispatch -> all-to-all -> experts -> all-to-all -> combine,
/// the middle three in chunks that overlap (ops/expert_exchange.h).
/// Shared experts, where the layer has them, are added to that. Dropless. Every rank takes part in
/// every exchange, even with no tokens.
class MoeLayer {
 public:
  MoeLayer(const ModelConfig& config, const ParameterStore& parameters, std::int64_t layer,
           const ProcessGrid& grid);
  /// x: T[tokens, hidden].
  SublayerOutput forward(const Variable& x, const ForwardContext& context) const;

 private:
  Variable run_experts(const Variable& sorted, const std::vector<std::int64_t>& counts) const;
  ExpertOutputs outputs_of_all(const Tensor& x, const Tensor& valid) const;

  std::int64_t layer_, experts_, local_experts_;
  ops::ExpertChunks chunks_;
  Communicator& group_;
  Router router_;
  Variable gate_, up_, down_;                 // this rank's experts, neuron-major
  Variable bias_;                             // [E, hidden], of all experts, where they have one
  std::vector<std::int64_t> neuron_offsets_;  // of its experts within those
  Tensor order_;                              // of experts, as their rows leave; i32[experts]
  std::optional<SharedExperts> shared_;
};

}  // namespace moe
