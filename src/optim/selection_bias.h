// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/parameter_store.h"

namespace moe {

/// Loss-free balancing (Wang et al. 2024, DeepSeek-V3), after each global batch:
///   layers.L.ROUTER.selection_bias[e] += rate * sign(mean(loads[L]) - loads[L][e]).
/// router: "router" or "attention.router". loads: [layer][expert], (token, slot) pairs of the whole
/// global batch, so that every rank comes to the same bits. The sign is exact. Layers without
/// experts are passed over.
void update_selection_bias(ParameterStore& parameters, const std::string& router,
                           const std::vector<std::vector<std::int64_t>>& loads, double rate);

}  // namespace moe
