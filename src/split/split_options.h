// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/model_config.h"
#include "core/dtype.h"
#include "hf/model_folder.h"
#include "split/attention_split.h"
#include "split/calibration.h"
#include "split/construction.h"
#include "split/gate.h"
#include "split/split_scale.h"
#include "split/token_clusters.h"

namespace moe {

/// How the chosen experts are weighed.
enum class SplitWeights : std::uint8_t {
  softmax,  // over the chosen logits, or over all (SplitOptions::softmax_over_all), times the scale
  unit,     // each by 1 + s p, s learned from 0 on: parts of a dense FFN are added up. Native alone
  flat,     // softmax over the chosen of logits made so small that all weigh nearly 1 / k, scale k:
            // the same for formats that know the softmax alone
};

/// What is fitted anew of the experts in closed form (split/down_refit.h).
enum class SplitRefit : std::uint8_t {
  none,
  down,           // the down projections, under the routing that will be used
  down_and_bias,  // and a bias for each routed expert. Native alone
};

/// A dense model folder in, a mixture of experts out.
struct SplitOptions {
  std::filesystem::path input, output;
  std::int64_t experts = 8;  // routed; 0: the feed-forward stays dense
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
  double gate_temperature = 1;  // centers by cosine: logits are x . unit centre / temperature
  SplitWeights weights = SplitWeights::softmax;
  SplitRefit refit = SplitRefit::none;
  /// Ridges of the refit, of which validation text chooses.
  std::vector<double> refit_ridges = {1e-4, 1e-3, 1e-2, 1e-1};
  /// What the refit comes near to: what the dense FFN makes of the same input, or what brings the
  /// residual stream back to the dense model's, so that a layer mends the ones before it.
  bool refit_to_dense_stream = false;
  SplitScale scale;
  /// Scale every channel of the routed experts' output to the variance of what they stand for
  /// (LLaMA-MoE v2's alignment, without its biases), in the down projections.
  bool align = false;
  /// Weights by the softmax over all experts; default: native with top_k 1, whose router would
  /// otherwise get no gradient from the language model's loss.
  std::optional<bool> softmax_over_all;
  AttentionSplitOptions attention;
  CalibrationOptions calibration;
  /// Text that decides between fits, at most a seventh as many tokens as calibration has; empty: an
  /// eighth of the calibration text is held back for it where it is needed.
  std::vector<std::filesystem::path> validation;
  /// Shards that losses are to be measured on: refused where calibration or validation text has a
  /// document of theirs.
  std::vector<std::filesystem::path> unseen;
  bool every_top_k = false;  // scales and measures for every number of chosen experts, not one
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

/// Neurons of each routed and each shared expert of a layer; a layer left dense has neither.
struct ExpertSizes {
  std::vector<std::int64_t> routed, shared;
};

/// The names of moe-split's options for these; the readers throw InputError for others.
const char* name(SplitWeights weights);
const char* name(SplitRefit refit);
SplitWeights split_weights_named(std::string_view text);
SplitRefit split_refit_named(std::string_view text);

/// Formats other than native have no place for unit weights and biases of experts: flat weights,
/// and a refit without biases, take theirs in `options`. Returns what was asked for, as native,
/// where anything changed.
std::optional<SplitOptions> fit_to_format(SplitOptions& options);

ExpertSizes expert_sizes_for(const SplitOptions& options, const Construction& construction,
                             std::int64_t neurons);

/// Throws InputError for options that cannot be, whatever the weights are.
void check_split_options(const SplitOptions& options, const ModelFolder& dense,
                         const Construction& construction, GateInit gate);

/// The mixture's architecture, with scales of 1. Throws InputError where the format has no place
/// for it. sizes: of each layer.
ModelConfig mixture_config(const SplitOptions& options, const ModelConfig& dense, GateInit gate,
                           const std::vector<ExpertSizes>& sizes);

}  // namespace moe
