// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "config/recompute.h"
#include "config/router_options.h"
#include "core/tensor.h"

namespace moe {

/// What the routers did with the tokens of this rank, added up on the model's device: nothing waits
/// for it until somebody reads it.
struct RouterStatistics {
  RouterStatistics(std::int64_t layers, std::int64_t experts, Device device = Device::cpu)
      : chosen(Tensor::zeros({layers, experts}, DType::i64, device)),
        placed(Tensor::zeros({layers, experts}, DType::i64, device)),
        probabilities(Tensor::zeros({layers, experts}, DType::f64, device)),
        losses(Tensor::zeros({layers, 3}, DType::f64, device)) {}

  Tensor chosen;         // i64[layers, E]: (token, slot) pairs that chose each expert
  Tensor placed;         // i64[layers, E]: those of them that capacity did not drop
  Tensor probabilities;  // f64[layers, E]: sums over tokens of the softmax over all experts
  /// f64[layers, 3]: this rank's share of cv_squared, switch and z, coefficients included: summed
  /// over ranks and micro-batches they are the global batch's.
  Tensor losses;
};

/// A drill: in every layer, an even share of the tokens of each sequence has this expert as its
/// first choice, whatever the router says.
struct HotExpert {
  std::int64_t expert = -1;  // < 0: no drill
  double share = 0;
};

/// Which experts the router of one layer chose for each token, and their weights in the sum,
/// without the score scale.
struct ExpertChoice {
  std::int64_t layer;
  Tensor experts;  // i32[tokens, k]; -1: padding
  Tensor weights;  // acc[tokens, k]
};

/// What all experts of one layer, not the chosen alone, make of the tokens of this rank. On the
/// CPU, without padding.
struct ExpertOutputs {
  std::int64_t layer;
  Tensor x;      // f32[tokens, hidden]: what the router sees
  Tensor norms;  // f32[tokens, E]: |y_e(x)|, an expert's bias included
};

/// What a forward pass tells the routers of one kind, and asks of them.
struct RoutingContext {
  RouterOptions options = {};
  /// Experts per token in this pass; 0: the model's.
  std::int64_t top_k = 0;
  /// i64[layers, E]: RouterStatistics::chosen of the whole previous step, for
  /// BalanceScope::global_batch.
  Tensor previous_counts;
  HotExpert hot_expert = {};
  /// When set, every router adds to its layer's rows.
  RouterStatistics* statistics = nullptr;
  /// When set, every router appends its choice.
  std::vector<ExpertChoice>* choices = nullptr;
  /// When set, every layer's experts compute every token besides, and the layer appends that. For
  /// the feed-forward's experts, without a tape. The same on every rank.
  std::vector<ExpertOutputs>* outputs = nullptr;
};

/// What a forward pass knows besides weights and tokens. A default context evaluates: no noise, no
/// router losses, no capacity.
struct ForwardContext {
  std::int64_t sequences = 0, length = 0;     // tokens = sequences * length
  Tensor valid;                               // u8[tokens], 0: padding; undefined: no padding
  std::vector<std::int64_t> sequence_tokens;  // [sequences]: those that are not padding
  /// i32[sequences, length]: for each token, the place in its row where its document begins. It
  /// attends to nothing before that, and its rotary position counts from there. Undefined: a row is
  /// one document.
  Tensor document_starts;
  /// i32[tokens]: the rotary positions that follow, which the forward pass fills in. Undefined:
  /// places in the row.
  Tensor positions;

  bool training = false;
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  std::span<const std::int64_t> sequence_ids = {};  // [sequences], global: the key of gate noise

  Recompute recompute = Recompute::none;

  double inverse_routed = 0;         // 1 / tokens of the global batch that are not padding
  RoutingContext routing;            // of the feed-forward's experts
  RoutingContext attention_routing;  // of the attention's

  std::int64_t tokens() const { return sequences * length; }
};

}  // namespace moe
