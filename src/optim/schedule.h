// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "config/train_config.h"

namespace moe {

/// The learning rate of `step` (the first is 1) of `total_steps`, peak times
///   warm-up:   step / warmup_steps, while step <= warmup_steps;
///   cosine:    max(floor, (1 + cos(pi p)) / 2), p = (step - warmup) / (total - warmup): clipped at
///              the floor, not stretched to it (LLaMA-MoE v1: flat over the last fifth);
///   constant:  1;
///   wsd:       1, then a straight line to `floor` over the last decay_steps.
double learning_rate(const TrainConfig::Schedule& schedule, double peak, std::int64_t step,
                     std::int64_t total_steps);

}  // namespace moe
