// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe {

/// A share of the (token, slot) pairs for each expert; they add up to 1.
using ExpertLoads = std::vector<double>;

ExpertLoads balanced_loads(std::int64_t experts);
/// One expert has `factor` times the mean, the others share the rest.
ExpertLoads one_hot_load(std::int64_t experts, double factor);
/// The layer of a trace that is furthest from balance. The trace: lines of tab-separated "model
/// domain expert_counts layer expert count". Experts that it lacks repeat those it has. Throws
/// InputError when it has no counts.
ExpertLoads loads_of_trace(const std::string& file, std::int64_t experts);

/// The largest share over the mean one.
double skew(const ExpertLoads& loads);

/// Offsets [E + 1] of `pairs` rows, shared out by the loads.
std::vector<std::int64_t> row_offsets(const ExpertLoads& loads, std::int64_t pairs);

}  // namespace moe
