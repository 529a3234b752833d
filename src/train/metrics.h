// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/append_file.h"
#include "train/checkpoint_saver.h"

namespace moe {

/// What the routers of one kind did in a step.
struct RoutingMetrics {
  std::int64_t top_k = 0;                       // experts per token; 0: none to choose
  std::map<std::string, double> router_losses;  // "cv_squared", ...: coefficients included
  std::vector<double> load_max_over_mean;   // per layer with experts: the busiest; 1 is balanced
  std::vector<double> router_entropy;       // per layer, nats
  std::vector<double> probability_entropy;  // per layer, nats
  std::vector<std::int64_t> dead_experts;   // per layer: without a pair in this step
  std::int64_t dropped_tokens = 0;          // (token, slot) pairs over capacity, all layers
  /// [layer with experts][expert]: (token, slot) pairs; empty: not in this step's line.
  std::vector<std::vector<std::int64_t>> expert_load;
};

/// What is known after a step: one line of metrics.jsonl (docs/file_formats.md). A number that does
/// not exist is NaN and is written as null.
struct StepMetrics : RoutingMetrics {  // those of the feed-forward's experts
  RoutingMetrics attention;            // those of the attention's
  std::int64_t step = 0;               // 1 is the first
  std::int64_t tokens = 0;             // trained on since step 0
  double loss = NAN;                 // mean cross-entropy per labelled token, without router losses
  std::optional<double> teacher_kl;  // mean KL(teacher || student) per labelled token; unset: none
  std::map<std::string, double> domain_loss;     // the loss, per domain
  std::map<std::string, double> domain_weights;  // shares of the step's sequences, by the mixture
  std::map<std::string, double> domain_epochs;   // times that each has been read after the step
  double grad_norm = NAN;                        // before clipping
  double learning_rate = NAN;
  double tokens_per_second = NAN;  // of all ranks
  double step_seconds = NAN;
  std::map<std::string, double> phase_seconds;  // forward, backward, ...: parts of the step
  double flops_per_second = NAN;                // of all ranks, on activated parameters
  /// Rank 0's waits for collectives within the step, and their parts by phase.
  double exposed_comm_seconds = NAN;
  std::map<std::string, double> exposed_comm_by_phase;
  /// Most that tensors of rank 0 held: "weights", "gradients", "optimizer", "activations",
  /// "snapshot" (a checkpoint being written), "total" (their common peak, below the sum).
  std::map<std::string, std::int64_t> memory_bytes;
  std::string skipped;             // why the step's update was left out; empty: it was made
  std::int64_t skipped_steps = 0;  // since step 0, those before a rollback too
  std::int64_t rollbacks = 0;      // since step 0
  std::map<std::string, double> held_out_loss;  // per domain; empty: not evaluated at this step
  std::optional<SaveResult> checkpoint;         // a save that ended since the step before
};

/// One JSON object without a line's end. Numbers keep every bit.
std::string to_json(const StepMetrics& metrics);

/// metrics.jsonl of a run, one line per step, each flushed as it is written.
class MetricsWriter {
 public:
  /// Goes on after `last_step` (0: a new run). Lines of later steps and lines that a crash tore are
  /// moved to FILE.before-<last_step>. Throws Error when the file cannot be written.
  MetricsWriter(const std::filesystem::path& file, std::int64_t last_step);

  /// Throws Error when the line cannot be written; the file then ends with the line before.
  void write(const StepMetrics& metrics);

 private:
  AppendFile file_;
};

/// A line for people: "step 120/1000 | loss 2.3456 | lr 2.00e-04 | ... | 2h07m left". Leaves out
/// what is NaN. eta_seconds: time left.
std::string progress_line(const StepMetrics& metrics, std::int64_t total_steps, double eta_seconds);

}  // namespace moe
