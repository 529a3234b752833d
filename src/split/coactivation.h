// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace moe {

/// How much two FFN neurons fire on the same tokens: with h = silu(W_gate x) * (W_up x),
///   w[i, j] = sum over tokens t of |h_ti| |h_tj| / |h_t|^2,   w[i, i] = 0,
/// |h_t| being the length of the token's vector. So every token adds the same in all and no pair
/// gets more than 1/2 from one token, which is what LLaMA-MoE v1's clamp is for. Tokens on which
/// nothing fires add nothing.
///
/// inputs: f32 [tokens, hidden]; gate, up: f32 [neurons, hidden]. Returns f32 [neurons, neurons],
/// symmetric: 4 neurons^2 bytes (485 MB for 11008), besides about 8 KiB a neuron of working memory.
/// The same bits on any number of threads. Throws InputError where activations are not finite.
Tensor coactivation(const Tensor& inputs, const Tensor& gate, const Tensor& up);

/// Labels that divide neurons into parts of the sizes given so that little coactivation crosses
/// between parts: METIS (Karypis & Kumar 1998) on the graph of each neuron's 64 strongest edges,
/// then move_to_sizes and exchange_neurons on all edges. weights: see coactivation(). Depends on
/// the arguments alone, for one METIS and one C library, whose random numbers it draws.
std::vector<std::int32_t> coactivation_parts(const Tensor& weights,
                                             const std::vector<std::int64_t>& sizes,
                                             std::uint64_t seed);

/// Moves neurons out of parts that are too large into parts that are too small, one by one, each
/// time the one whose move loses the least weight within parts; of equal ones the lowest neuron,
/// then the lowest part. weights: f32 [neurons, neurons], symmetric.
void move_to_sizes(std::vector<std::int32_t>& labels, const Tensor& weights,
                   const std::vector<std::int64_t>& sizes);

/// Exchanges neurons of two parts while that puts more weight within parts: each time, of the
/// pairs of parts, the one whose two most willing neurons gain most together. A part with just one
/// neuron more than another may give it one for nothing, so parts keep their sizes but for their
/// order. At most `neurons` exchanges.
void exchange_neurons(std::vector<std::int32_t>& labels, const Tensor& weights, std::int64_t parts);

/// The share of all weight that is between neurons of the same part; 0 when there is no weight.
double weight_within_parts(const Tensor& weights, const std::vector<std::int32_t>& labels);

}  // namespace moe
