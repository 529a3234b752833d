// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "expert_loads.h"

namespace moe {

/// A layer or a training step of LLaMA-MoE-3.5B on the device.
struct ModelRow {
  std::string name;
  double seconds = 0, tokens = 0, flops = 0;  // flops: on active parameters
  double skew = 0;                            // of the loads that were reached; 0: unknown
};

/// Layers of 2/8 and of 4/16 experts that fit into the memory that is free.
std::int64_t layers_that_fit(std::int64_t sequences);

/// The MoE layer alone, forward and backward, over sequences of 4096, for 2/8 and 4/16, balanced.
void each_layer(std::int64_t sequences, const std::function<void(const ModelRow&)>& show);

/// The full training step of 2/8 and 4/16: `layers` layers, bf16 with f32 masters, one micro-batch,
/// no recomputation; balanced, and pushed towards a skew of 4 (or `trace` in its place, when it is
/// not empty) by the routers' biases.
void each_step(std::int64_t layers, std::int64_t sequences, const std::string& trace,
               const std::function<void(const ModelRow&)>& show);

}  // namespace moe
