// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "comm/communicator.h"
#include "split/gate_training.h"
#include "split/layer_quality.h"
#include "split/token_clusters.h"

namespace moe {

/// How tokens find the experts of one layer: f32 logits [rows, E] of what the FFN is given.
using GateLogits = std::function<Tensor(const Tensor& inputs)>;

/// CMoE's: the activation of one neuron of each expert, all weights of length 1.
GateLogits representative_logits(const FfnMatrices& ffn,
                                 const std::vector<std::int64_t>& representatives);

/// The clusters in the order of the experts whose neurons fire most for them, one cluster each.
TokenClustering matched_to_experts(const TokenClustering& found, const Tensor& inputs,
                                   const FfnMatrices& ffn, const NeuronSets& experts);

/// For each expert a logistic regression on being among the k whose outputs are longest. inputs:
/// f32 [this rank's tokens, hidden]; collective.
GateWeights fit_layer_gate(const Tensor& inputs, const FfnMatrices& ffn, const Partition& partition,
                           std::int64_t k, bool bias, Communicator& world);

/// Makes a linear gate's logits so small, by a power of two, that on these tokens the chosen
/// experts weigh nearly alike: no two logits of a token are further apart than 1/16. Collective.
void flatten_gate(GateWeights& gate, const Tensor& inputs, Communicator& world);

}  // namespace moe
