// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "train/engine.h"
#include "train/metrics.h"

namespace moe {

/// Fills in what a step's metrics say of its routers: losses, and per layer with experts how even
/// the load and the probabilities are (docs/numerics.md). Nothing for a dense model.
void describe_routing(const StepResult& result, StepMetrics& metrics);

}  // namespace moe
