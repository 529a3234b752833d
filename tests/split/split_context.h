// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/rng.h"
#include "split/construction.h"
#include "support/tensor_tools.h"

namespace moe::test {

inline SplitContext split_context(std::int64_t neurons, std::int64_t experts,
                                  std::uint64_t seed = 42, std::int64_t layer = 0) {
  return {layer, seed, neurons, even_sizes(neurons, experts)};
}

/// Weights that differ between the projections.
inline FfnWeights random_weights(std::int64_t neurons, std::int64_t hidden) {
  return [=](std::string_view part) {
    return random_tensor({neurons, hidden}, DType::f32, std::uint64_t(part[0]));
  };
}

/// Random FFN inputs, and scores for one cluster more than there are experts.
inline LayerCalibration random_calibration(std::int64_t neurons, std::int64_t hidden,
                                           std::int64_t experts, std::uint64_t seed) {
  LayerCalibration c = {random_tensor({50, hidden}, DType::f32, seed),
                        random_tensor({experts + 1, neurons}, DType::f64, seed + 1)};
  double* scores = c.importance.data<double>();
  for (std::int64_t i = 0; i < c.importance.size(); ++i) scores[i] *= scores[i];
  c.own = c.inputs;
  c.validation = random_tensor({20, hidden}, DType::f32, seed + 2);
  static const std::unique_ptr<Communicator> alone = single_rank();
  c.world = alone.get();
  return c;
}

}  // namespace moe::test
