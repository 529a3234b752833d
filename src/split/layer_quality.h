// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "config/model_config.h"
#include "core/tensor.h"
#include "split/partition.h"

namespace moe {

/// The FFN of a layer, dense: f32 [neurons, hidden] each.
struct FfnMatrices {
  Tensor gate, up, down;
};

/// What a token's chosen experts are and weigh: i32 and f32 [tokens, k].
struct TokenRouting {
  Tensor experts, weights;
};

/// Which experts a gate chooses, weighed as such a router does (unit weights before any training:
/// by 1). logits: f32 [tokens, E].
TokenRouting route(const Tensor& logits, std::int64_t k, const RouterConfig& router);

/// How well the experts stand in for the dense FFN on calibration tokens.
struct LayerQuality {
  /// The factor on the routed experts that brings them nearest to the dense output: least squares.
  double best_scale = 0;
  /// |dense output - mixture's output| / |dense output|, over all tokens, with the scale given and
  /// with the best one.
  double error = 0, best_error = 0;
  /// Share of sum |activation| that lies in the chosen and the shared experts, and what the best
  /// choice of k experts for every token would reach.
  double recall = 0, best_recall = 0;
  /// Tokens that each routed expert got.
  std::vector<std::int64_t> load;
  /// For each channel of the output, the factor that gives the routed part the variance of what it
  /// stands for (dense output minus shared experts) when the scale is the one given; 1 where the
  /// routed part does not vary.
  std::vector<double> channel_scale;
};

/// inputs: f32 [tokens, hidden]. Shared experts count with weight 1.
LayerQuality measure_layer(const Tensor& inputs, const FfnMatrices& ffn, const Partition& partition,
                           const TokenRouting& routing, double scale);

/// Each routed expert's share of a token's activations: f32 [tokens, E], sums of |activation| over
/// the expert's neurons.
Tensor activation_mass(const Tensor& inputs, const FfnMatrices& ffn, const NeuronSets& experts);

/// Mean Jaccard similarity |A and B| / |A or B| of all pairs of routed experts; 0 when disjoint.
double neuron_overlap(const NeuronSets& experts);

}  // namespace moe
