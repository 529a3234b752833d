// SPDX-License-Identifier: Apache-2.0
#include "train/run_metrics.h"

namespace moe {

RunMetrics::RunMetrics(const TrainConfig::Run& run, std::int64_t last_step, std::int64_t tokens)
    : expert_load_every_(run.expert_load_every),
      lines_(std::filesystem::path(run.folder) / "metrics.jsonl", last_step) {
  if (run.tensorboard)
    tensorboard_.emplace(std::filesystem::path(run.folder) / "tensorboard", last_step, tokens);
}

void RunMetrics::write(StepMetrics metrics) {
  if (expert_load_every_ == 0 || metrics.step % expert_load_every_ != 0)
    metrics.expert_load.clear(), metrics.attention.expert_load.clear();
  lines_.write(metrics);
  if (tensorboard_) tensorboard_->write(metrics);
}

}  // namespace moe
