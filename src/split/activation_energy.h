// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "split/layer_quality.h"
#include "split/partition.h"

namespace moe {

/// How much each neuron says to each token: h^2 |d|^2, f32 [rows of inputs, neurons], h its
/// activation and d its row of the down projection.
Tensor activation_energy(const Tensor& inputs, const FfnMatrices& ffn);

/// Sums over the rows of x (f32 [rows, cols]), of all ranks.
std::vector<double> column_sums(const Tensor& x, Communicator& world);

/// The neurons 0 .. scores.size() - 1, those with larger scores first, equal ones by index.
std::vector<std::int64_t> by_score(const std::vector<double>& scores);

/// The activation profiles of some neurons, for clustering: f32 [neurons, rows of x], sqrt(x)
/// centred over the rows and of length 1; neurons that never vary are zeros.
Tensor profiles(const Tensor& x, const std::vector<std::int64_t>& neurons);

/// The neurons of shared experts, then what is left: order's first ones in sets of these sizes.
struct SharedAndRest {
  NeuronSets shared;
  std::vector<std::int64_t> rest;  // ascending
};
SharedAndRest take_shared(const std::vector<std::int64_t>& order,
                          const std::vector<std::int64_t>& shared_sizes);

/// The sets of `rest` that labels make: labels[i] is the expert of rest[i].
NeuronSets sets_of(const std::vector<std::int64_t>& rest, const std::vector<std::int32_t>& labels,
                   std::int64_t experts);

/// At most `rows` rows of x, evenly spread, of all ranks together and the same on each.
Tensor sampled_rows(const Tensor& x, std::int64_t rows, Communicator& world);

}  // namespace moe
