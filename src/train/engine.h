// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/process_grid.h"
#include "config/router_options.h"
#include "data/token_stream.h"
#include "nn/transformer.h"
#include "optim/adamw.h"
#include "optim/frozen_masters.h"
#include "optim/gradients.h"
#include "optim/weight_gather.h"

namespace moe {

/// What is known of the whole global batch before its first backward.
struct GlobalCounts {
  std::int64_t labelled = 0;  // scored tokens: the divisor of the loss; with 0 it is 0
  std::int64_t routed = 0;    // tokens that are not padding: the divisor of router losses
};

/// What the routers of one kind did in a step.
struct RoutingResult {
  std::int64_t top_k = 0;                          // experts per token in this step; 0: none
  double cv_squared = 0, switch_top_k = 0, z = 0;  // router losses, coefficients included
  /// [layer][expert]: (token, slot) pairs that chose each expert, dropped ones included; zeros for
  /// layers without experts, empty for a model without.
  std::vector<std::vector<std::int64_t>> loads;
  std::vector<std::vector<double>> probabilities;  // [layer][expert]: summed over tokens
  std::int64_t dropped = 0;                        // pairs dropped over capacity, all layers
};

/// The outcome of one step, the same on every rank. Definitions: docs/numerics.md.
struct StepResult {
  double loss = 0;  // mean cross-entropy over the global batch's labelled tokens
  /// Mean KL(teacher || student) over those tokens, at the run's temperature; unset: no teacher.
  std::optional<double> teacher_kl;
  RoutingResult routing;            // of the feed-forward's experts
  RoutingResult attention_routing;  // of the attention's
  double grad_norm = 0;             // over all parameters, before clipping
  double clip = 1;
  std::vector<double> domain_loss;                // mean per domain; NaN where it has no token
  std::map<std::string, double> exposed_seconds;  // this rank's waits for collectives, by phase
  std::map<std::string, double> seconds;          // this rank's time: forward, backward, ...
};

/// What a drill does to a step of this rank (train/faults.h).
struct StepFaults {
  bool nan_gradient = false;
  HotExpert hot_expert;
};

struct EngineOptions {
  DType dtype = DType::f32;
  Device device = Device::cpu;  // of weights, gradients, optimiser and all computations
  std::uint64_t seed = 42;
  std::int64_t micro_batch = 4;  // sequences computed at once
  std::int64_t bucket_part_bytes = 2 << 20;
  bool zero = false;  // each rank keeps its share of the optimiser's state alone
  DType gradient_transport = DType::f32;  // or bf16, with zero; f64 models send f64
  Recompute recompute = Recompute::none;
  bool gradients_only = false;      // no optimiser: update() is not for this engine
  std::vector<std::string> freeze;  // families of parameters that stay as they are
  std::int64_t domains = 1;
  TrainConfig::Optimizer optimizer;
  RouterOptions router, attention_router;
  /// Whom the model learns from, of the same vocabulary, number type and device, the same on every
  /// rank; none: nobody.
  std::shared_ptr<const Transformer> teacher;
  TrainConfig::Distill distill;
};

/// A model with its gradients and optimiser on this rank of the grid: a step is two calls, between
/// which the caller may decide against the update.
class Engine {
 public:
  /// Starts as load_weights(weights).
  Engine(const ModelConfig& config, const EngineOptions& options, const ProcessGrid& grid,
         const ParameterRows& weights);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Asks for the rows this rank holds, in at least the masters' precision.
  void load_weights(const ParameterRows& rows);

  /// Forward and backward over this rank's sequences in micro-batches, gradients summed over ranks;
  /// no update. Collective: every rank brings the same number of sequences.
  StepResult compute_gradients(const Batch& batch, const GlobalCounts& counts, std::int64_t step,
                               const StepFaults& faults = {});
  /// Clips those gradients and updates the weights by AdamW; adds to `result` what it found. With
  /// zero, weights of other owners arrive during the next forward pass. Without this call a step
  /// leaves no trace. Collective.
  void update(StepResult& result, double learning_rate);
  /// Both.
  StepResult train_step(const Batch& batch, const GlobalCounts& counts, std::int64_t step,
                        double learning_rate);

  /// Fits the linear gates of the feed-forward's experts anew to a batch (train/router_refresh.h).
  /// Collective, between steps.
  void refresh_routers(const Batch& batch);

  const ModelConfig& config() const { return config_; }
  const Transformer& model() const { return *model_; }
  /// All weights are there when this returns.
  ParameterStore& parameters();
  GradientBuckets& gradients() { return *gradients_; }
  const BucketPlan& buckets() const { return *plan_; }
  AdamW& optimizer() { return *optimizer_; }
  const FrozenMasters& frozen() const { return *frozen_; }
  const ProcessGrid& grid() const { return grid_; }
  /// nullptr: nobody teaches.
  const Transformer* teacher() const { return options_.teacher.get(); }

  /// i64[layers, E]: the expert counts of the last step that updated weights, part of a checkpoint;
  /// ones before the first. Undefined for a model without experts there.
  const Tensor& previous_counts() const { return previous_counts_; }
  const Tensor& attention_previous_counts() const { return attention_previous_counts_; }

 private:
  ops::Taught ask_teacher(const Tensor& tokens, const Tensor& document_starts) const;

  const ModelConfig config_;
  const EngineOptions options_;
  const ProcessGrid& grid_;
  ParameterStore parameters_;
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<BucketPlan> plan_;
  std::unique_ptr<GradientBuckets> gradients_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<FrozenMasters> frozen_;
  std::unique_ptr<WeightGather> gather_;
  Tensor previous_counts_, attention_previous_counts_;
};

}  // namespace moe
