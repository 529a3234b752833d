// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "train/engine.h"
#include "train/metrics.h"

namespace moe {

/// Fills in what a step's metrics say of the routers of one kind: losses, and per layer with
/// experts how even the load and the probabilities are (docs/numerics.md). Nothing for a model
/// without.
void describe_routing(const RoutingResult& result, RoutingMetrics& metrics);

}  // namespace moe
