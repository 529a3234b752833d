// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "config/router_losses.h"
#include "core/tensor.h"

namespace moe {

/// What one layer's router did with the tokens of this rank.
struct RouterStatistics {
  std::vector<std::int64_t> tokens_per_expert;  // [E], (token, slot) pairs
  /// Each loss's share of this rank, coefficient included: summed over ranks and micro-batches it
  /// is the global batch's.
  double cv_squared = 0, switch_top_k = 0, z = 0;
};

/// A drill: in every layer, an even share of the tokens of each sequence has this expert as its
/// first choice, whatever the router says.
struct HotExpert {
  std::int64_t expert = -1;  // < 0: no drill
  double share = 0;
};

/// What a forward pass knows besides weights and tokens. A default context evaluates: no noise, no
/// router losses.
struct ForwardContext {
  std::int64_t sequences = 0, length = 0;  // tokens = sequences * length
  std::int64_t first_position = 0;         // of each sequence, when its earlier keys are cached
  Tensor valid;                            // u8[tokens], 0: padding; undefined: no padding

  bool training = false;
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  std::span<const std::int64_t> sequence_ids = {};  // [sequences], global: the key of gate noise

  RouterLosses router_losses = {};
  double inverse_routed = 0;  // 1 / tokens of the global batch that are not padding

  HotExpert hot_expert = {};

  /// When set, layer l adds to (*statistics)[l].
  std::vector<RouterStatistics>* statistics = nullptr;

  std::int64_t tokens() const { return sequences * length; }
};

}  // namespace moe
