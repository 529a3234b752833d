// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "config/train_config.h"
#include "train/metrics.h"
#include "train/tensorboard.h"

namespace moe {

/// What a run writes after every step: metrics.jsonl, and the same for TensorBoard.
class RunMetrics {
 public:
  /// Goes on after `last_step`, when `tokens` had been trained on. Throws Error when metrics.jsonl
  /// cannot be written.
  RunMetrics(const TrainConfig::Run& run, std::int64_t last_step, std::int64_t tokens);

  /// Leaves the experts' load out except at every run.expert_load_every steps. Throws Error when
  /// the line cannot be written to metrics.jsonl.
  void write(StepMetrics metrics);

 private:
  std::int64_t expert_load_every_;
  MetricsWriter lines_;
  std::optional<TensorBoard> tensorboard_;
};

}  // namespace moe
