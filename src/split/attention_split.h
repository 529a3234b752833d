// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/model_config.h"
#include "config/model_parameters.h"
#include "hf/model_folder.h"
#include "split/gate.h"
#include "split/split_scale.h"

namespace moe {

/// How the attention of a dense model is divided among experts (AttentionExpert).
struct AttentionSplitOptions {
  std::optional<AttentionExpert> kind;  // nothing: the attention stays dense
  /// Default: as many as there can be whose keys and values are not copied: queries: one query head
  /// of each key/value head an expert; heads: one key/value head an expert.
  std::optional<std::int64_t> experts;
  std::optional<std::int64_t> top_k;  // default: half of the experts
  SplitScale scale;                   // all rules but least_squares
  GateInit gate = GateInit::linear;   // linear (random), zeros or centers
  std::vector<std::int64_t> dense_layers;
  /// Default: native with top_k 1, as for the feed-forward.
  std::optional<bool> softmax_over_all;
};

/// "queries" or "heads"; throws InputError otherwise.
AttentionExpert attention_expert_named(std::string_view text);
const char* name(AttentionExpert kind);
/// "random", "zeros" or "centers"; throws InputError otherwise.
GateInit attention_gate_named(std::string_view text);
const char* attention_gate_name(GateInit gate);

/// Throws InputError for options that cannot be, besides those that ModelConfig::validate finds.
void check_attention_split(const AttentionSplitOptions& options, const ModelConfig& dense,
                           bool calibrated);

/// The experts of the attention, with the scales of the options' rule.
AttentionMoeConfig attention_config(const AttentionSplitOptions& options, const ModelConfig& dense,
                                    bool native);

/// What a split decides about the attention of one layer.
struct AttentionLayerPlan {
  Tensor gate;                           // f32 [experts, hidden]; undefined: as it starts
  std::optional<double> gate_agreement;  // centers: tokens routed to their own cluster
  std::vector<std::int64_t> load;        // calibration tokens that choose each expert
};

/// The gate of a layer's attention: for centers from what the attention is given (f32 [tokens,
/// hidden], all ranks' tokens), else as it starts; and whom the tokens choose by it.
AttentionLayerPlan plan_attention_layer(const AttentionSplitOptions& options,
                                        const ModelConfig& config, std::int64_t layer,
                                        const Tensor& inputs, std::uint64_t seed);

/// The weights of the experts of the attention (model_parameters: layers.N.attention.experts.*),
/// gathered from those of the dense model. Holds one matrix at a time.
class AttentionExpertSource {
 public:
  /// `dense` must outlive it.
  AttentionExpertSource(const ModelFolder& dense, ModelConfig config, DType dtype)
      : dense_(dense), config_(std::move(config)), dtype_(dtype) {}

  /// Rows of such a parameter, or an undefined tensor for other parameters.
  Tensor rows(const std::string& name, std::int64_t first, std::int64_t count);

 private:
  const ModelFolder& dense_;
  ModelConfig config_;
  DType dtype_;
  std::string held_name_;
  Tensor held_;
};

}  // namespace moe
