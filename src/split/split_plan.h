// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "config/model_config.h"
#include "core/dtype.h"
#include "hf/model_folder.h"
#include "split/calibration.h"
#include "split/construction.h"
#include "split/gate.h"
#include "split/gate_training.h"
#include "split/layer_quality.h"
#include "split/token_clusters.h"

namespace moe {

/// The factor on the routed experts' weighted sum.
struct SplitScale {
  enum class Rule : std::uint8_t {
    natural,        // Construction::natural_scale: experts / top_k for parts of an FFN
    variance,       // sqrt(experts * top_k): k of E independent parts, weighing 1/k each, then have
                    // the variance of the whole
    least_squares,  // per layer, what brings the output nearest to the dense one on calibration
                    // text
    number,
  };
  Rule rule = Rule::natural;
  double value = 0;  // of `number`

  SplitScale() = default;
  SplitScale(Rule r) : rule(r) {}
  SplitScale(double v) : rule(Rule::number), value(v) {}
};
/// A number, "natural", "variance" or "least-squares"; throws InputError otherwise.
SplitScale split_scale_named(const std::string& text);
std::string name(const SplitScale& scale);

/// A dense model folder in, a mixture of experts out.
struct SplitOptions {
  std::filesystem::path input, output;
  std::int64_t experts = 8;  // routed
  std::int64_t top_k = 2;
  std::int64_t shared = 0;                  // shared experts, which every token visits besides
  std::optional<std::int64_t> expert_size;  // neurons of each; default: Construction::sizes
  bool uneven = false;                      // with expert_size: the last expert takes the rest
  std::vector<std::int64_t> dense_layers;   // layers that are left as they are
  std::string method = "random";
  ConstructionOptions construction;
  std::optional<GateInit> gate;    // default: mlp for llama-moe, linear for the others
  std::optional<bool> gate_noise;  // default: on for llama-moe and a random gate
  TokenMetric gate_metric = TokenMetric::cosine;  // centers: l2 needs a format with gate biases
  bool gate_balanced = false;                     // centers: every cluster as many tokens; l2 alone
  SplitScale scale;
  /// Scale every channel of the routed experts' output to the variance of what they stand for
  /// (LLaMA-MoE v2's alignment, without its biases), in the down projections.
  bool align = false;
  /// Weights by the softmax over all experts; default: native with top_k 1, whose router would
  /// otherwise get no gradient from the language model's loss.
  std::optional<bool> softmax_over_all;
  CalibrationOptions calibration;
  std::vector<std::int64_t> also_top_k;  // other numbers of chosen experts to find scales for
  std::uint64_t seed = 42;
  ModelFormat format = ModelFormat::llama_moe;
  std::optional<DType> dtype;  // of the weights written; default: as the dense model's
  bool force = false;          // replace an existing output folder
  /// neuron_indices.safetensors of an earlier split, which then says what goes where instead of
  /// `method`, `shared` and `expert_size`.
  std::optional<std::filesystem::path> indices;
  std::optional<std::filesystem::path> modeling_from;  // WriteOptions::modeling_from
  bool dry_run = false;  // for a plan that nobody writes: the output is of no concern
};

/// Everything that a split decides, before any weight is moved.
struct SplitPlan {
  struct Layer {
    Partition partition;
    std::vector<std::pair<std::string, double>> measures;  // of the construction
    GateWeights gate;                                      // undefined: SplitPlan::gate_init
    std::map<std::int64_t, double> scale;                  // by number of chosen experts
    std::vector<double> channel_scale;  // [hidden] on the rows of down; empty: none
    /// On the calibration text, by number of chosen experts: top_k, and SplitOptions::also_top_k.
    std::map<std::int64_t, LayerQuality> quality;
    std::optional<double> gate_agreement;  // centers: tokens routed to their own cluster
  };

  ModelConfig config;
  std::string method;  // "indices" when the partitions came from a file
  GateInit gate_init = GateInit::mlp;
  std::uint64_t seed = 0;
  std::map<std::int64_t, Layer> layers;  // without those left dense
  std::int64_t calibration_tokens = 0;
  double seconds = 0;

  /// The model with another number of chosen experts and the scales for it, one of also_top_k.
  ModelConfig config_with(std::int64_t top_k) const;
};

/// Decides a split. Collective: ranks share the calibration text and come to the same plan. Throws
/// InputError for options that cannot be: the input is no dense model, more experts than FFN
/// neurons, an output that exists without `force`, NaN or infinity in a weight that it reads, top_k
/// outside [1, experts], a gate, noise or sizes that the format cannot hold, a method or gate that
/// needs calibration text where none is given.
SplitPlan plan_split(const ModelFolder& dense, const SplitOptions& options, Communicator& world);

}  // namespace moe
