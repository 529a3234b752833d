// SPDX-License-Identifier: Apache-2.0
#include "split/construction.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace moe {

namespace {

struct Method {
  const char* name;
  std::unique_ptr<Construction> (*make)(const ConstructionOptions& options);
};

constexpr Method kMethods[] = {
    {"random", make_random_construction},
    {"sequential", make_sequential_construction},
    {"clustering", make_clustering_construction},
    {"coactivation", make_coactivation_construction},
    {"gradient", make_gradient_construction},
    {"sharing-inner", make_sharing_inner_construction},
    {"sharing-inter", make_sharing_inter_construction},
    {"residual", make_residual_construction},
    {"joint", make_joint_construction},
    {"energy", make_energy_construction},
    {"cmoe", make_marker_construction},
    {"gate-variation", make_gate_variation_construction},
    {"copy", make_copy_construction},
};

}  // namespace

std::unique_ptr<Construction> make_construction(std::string_view method,
                                                const ConstructionOptions& options) {
  for (const Method& m : kMethods)
    if (method == m.name) return m.make(options);
  throw InputError(str("unknown method '", method, "': use ", join(construction_names(), " or ")));
}

std::vector<std::string> construction_names() {
  std::vector<std::string> names;
  for (const Method& m : kMethods) names.emplace_back(m.name);
  return names;
}

const Tensor& required(const SplitContext& context, Tensor LayerCalibration::*what,
                       std::string_view method) {
  MOE_REQUIRE(context.calibration && (context.calibration->*what).defined(), "method ", method,
              " needs calibration text: give it with --calibration");
  return context.calibration->*what;
}

const LayerCalibration& own_text(const SplitContext& context, std::string_view method) {
  required(context, &LayerCalibration::own, method);
  return *context.calibration;
}

NeuronSets consecutive_sets(const std::vector<std::int64_t>& order,
                            const std::vector<std::int64_t>& sizes) {
  MOE_CHECK(
      std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}) == std::int64_t(order.size()),
      "sets of ", join(sizes, "+"), " neurons out of ", order.size());
  NeuronSets sets;
  auto next = order.begin();
  for (const std::int64_t size : sizes) {
    sets.emplace_back(next, next + size);
    next += size;
    std::sort(sets.back().begin(), sets.back().end());
  }
  return sets;
}

}  // namespace moe
