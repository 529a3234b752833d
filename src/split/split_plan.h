// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "config/model_config.h"
#include "split/gate_training.h"
#include "split/layer_quality.h"
#include "split/refit_layer.h"
#include "split/split_options.h"

namespace moe {

/// Everything that a split decides, before any weight is moved.
struct SplitPlan {
  struct Layer {
    Partition partition;
    std::vector<std::pair<std::string, double>> measures;  // of the construction
    GateWeights gate;                                      // undefined: SplitPlan::gate_init
    std::map<std::int64_t, double> scale;                  // by number of chosen experts
    std::vector<double> channel_scale;  // [hidden] on the rows of down; empty: none
    /// On the validation text, or the calibration text where there is none, by number of chosen
    /// experts: top_k, or all with SplitOptions::every_top_k.
    std::map<std::int64_t, LayerQuality> quality;
    std::optional<double> gate_agreement;  // centers: tokens routed to their own cluster
    /// Of SplitOptions::refit: what replaces the dense down projections, if anything does.
    std::optional<LayerRefit> refit;
    std::vector<std::int64_t> representatives;  // neurons of GateInit::representative
  };

  ModelConfig config;
  std::string method;  // "indices" when the partitions came from a file, "none" without experts
  GateInit gate_init = GateInit::mlp;
  std::uint64_t seed = 0;
  std::map<std::int64_t, Layer> layers;  // without those left dense
  GateInit attention_gate = GateInit::linear;
  /// Layers whose attention has experts, as far as calibration text says something of them.
  std::map<std::int64_t, AttentionLayerPlan> attention;
  std::int64_t calibration_tokens = 0, validation_tokens = 0;
  double seconds = 0;

  /// The model with another number of chosen experts and the scales for it, one that was planned;
  /// the attention's stay.
  ModelConfig config_with(std::int64_t top_k) const;
};

/// A layer with experts as it was planned, and how tokens choose among them.
struct PlannedRouting {
  const SplitPlan::Layer& layer;
  /// Given rows of what the layer's FFN is given, f32 [rows, hidden].
  std::function<TokenRouting(const Tensor& inputs)> route;
  double scale;
};
/// Hears of every layer as soon as it is planned; `planned` is null for one that stays dense.
using PlannedLayer =
    std::function<void(std::int64_t index, const DenseLayer& dense, const PlannedRouting* planned)>;

/// Decides a split, and tells `planned` of every layer in turn (nothing planned: it stays dense).
/// Collective: ranks share the calibration text and come to the same plan. Throws
/// InputError for options that cannot be: the input is no dense model, more experts than FFN
/// neurons, an output that exists without `force`, NaN or infinity in a weight that it reads, top_k
/// outside [1, experts], a gate, noise or sizes that the format cannot hold, a method or gate that
/// needs calibration text where none is given.
SplitPlan plan_split(const ModelFolder& dense, const SplitOptions& options, Communicator& world,
                     const PlannedLayer& planned = {});

}  // namespace moe
