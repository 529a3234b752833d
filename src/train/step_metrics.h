// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "config/train_config.h"
#include "train/engine.h"
#include "train/metrics.h"

namespace moe {

/// What a step's result says, as metrics; `device`: whose memory is meant, `seconds`: of the step.
/// Step, tokens, learning rate and what the guard counts are the caller's to fill in.
StepMetrics metrics_of(const StepResult& result, const TrainConfig& config,
                       const ModelConfig& model, Device device, double seconds);

/// The most bytes that this rank's tensors held on `device`, by the kinds of core/memory.h and as
/// "total"; "snapshot" is that in host memory.
std::map<std::string, std::int64_t> peak_memory(Device device);

/// Floating-point operations of one training step, forward and backward, on activated parameters:
///   tokens * (6 * P + 6 * layers * length * heads * head_dim),
/// P the activated parameters that are multiplied: without the embedding table (its lookup is no
/// product) and with the output head; the second term is causal attention (half of the square). Of
/// it a layer with k of E experts in its attention counts k / E with routed queries and (k / E)^2,
/// even routing taken for granted, with routed heads.
/// Recomputation is not counted.
double step_flops(const ModelConfig& config, std::int64_t tokens, std::int64_t length);
/// Those of the forward pass alone, a third: what a teacher costs.
inline double forward_flops(const ModelConfig& config, std::int64_t tokens, std::int64_t length) {
  return step_flops(config, tokens, length) / 3;
}

}  // namespace moe
