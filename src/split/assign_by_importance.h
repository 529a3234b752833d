// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "split/partition.h"

namespace moe {

// Neurons to experts by importance scores, f64 [experts, neurons], row e of which is what the
// neurons are worth to expert e. Scores must be finite. Sets are ascending.

/// Divides each row by the mean of its absolute values, so that rows compete on equal terms; rows
/// of zeros stay. Returns a new tensor.
Tensor normalised_importance(const Tensor& scores);

/// The greedy disjoint assignment: of all pairs of an expert with room, sizes[e] in all, and a
/// neuron still free, the one with the largest score is made next. A score that several experts
/// give goes to the last of them, as LLaMA-MoE v1 and v2 do it; of an expert's equal scores, to the
/// lowest neuron. `taken` (empty: none) marks the neurons that nobody may have; throws InputError
/// unless the sizes add up to the others. O(experts neurons log(experts neurons)).
NeuronSets assign_disjoint(const Tensor& scores, const std::vector<std::int64_t>& sizes,
                           const std::vector<bool>& taken = {});

/// Every expert's own sizes[e] best neurons of those not taken, equal scores to the lowest neuron.
/// Neurons may be in several sets or in none. Throws InputError when an expert wants more neurons
/// than are free.
NeuronSets top_neurons(const Tensor& scores, const std::vector<std::int64_t>& sizes,
                       const std::vector<bool>& taken = {});

/// Who comes first among neurons with equally many votes.
enum class SharedBy : std::uint8_t {
  score,  // the larger sum of all rows' scores, then the lower index
  index,  // the lower index: LLaMA-MoE v1 and v2
};

/// The neurons of shared experts. Every expert votes for its sizes[e] best free neurons; those with
/// the most votes are taken, until enough are; else the experts vote again. The first
/// shared_sizes[0] of the neurons, in the order taken, are the first set, and so on. Throws
/// InputError when there are fewer neurons than the shared experts want.
NeuronSets shared_by_votes(const Tensor& scores, const std::vector<std::int64_t>& sizes,
                           const std::vector<std::int64_t>& shared_sizes, SharedBy order);

}  // namespace moe
