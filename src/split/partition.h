// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace moe {

/// FFN neurons of several experts: of each the ids, ascending.
using NeuronSets = std::vector<std::vector<std::int64_t>>;

std::vector<std::int64_t> sizes_of(const NeuronSets& sets);
/// The neurons of all sets, one set after the other: row n of the experts' weights is row
/// concatenated(sets)[n] of the dense ones.
std::vector<std::int64_t> concatenated(const NeuronSets& sets);

/// Where the FFN neurons of one layer go.
struct Partition {
  NeuronSets experts = {};  // routed: a token visits k of them
  NeuronSets shared = {};   // every token visits all of these

  friend bool operator==(const Partition&, const Partition&) = default;
};

/// What a partition must satisfy besides non-empty experts with ascending ids in range.
enum class Coverage : std::uint8_t {
  exact,  // every neuron in exactly one expert, routed or shared
  any,    // neurons may be in several experts or in none
};

/// Throws InputError naming the expert or neuron at fault, because partitions also come from files.
void check_partition(const Partition& partition, std::int64_t neurons, Coverage coverage);

/// Sizes of `experts` experts that hold `neurons` neurons: the first neurons % experts of them hold
/// one more. Throws InputError when there are fewer neurons than experts.
std::vector<std::int64_t> even_sizes(std::int64_t neurons, std::int64_t experts);

/// The partition that gives neuron n to expert labels[n].
Partition partition_of_labels(const std::vector<std::int32_t>& labels, std::int64_t experts);

}  // namespace moe
