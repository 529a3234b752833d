// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace moe {

/// The experts of one layer, each the ids of its FFN neurons in ascending order.
struct Partition {
  std::vector<std::vector<std::int64_t>> experts;

  std::vector<std::int64_t> sizes() const;
  /// The neurons of all experts, one expert after the other: row n of the experts' weights is row
  /// order()[n] of the dense ones.
  std::vector<std::int64_t> order() const;

  friend bool operator==(const Partition&, const Partition&) = default;
};

/// What a partition must satisfy besides non-empty experts with ascending ids in range.
enum class Coverage : std::uint8_t {
  exact,  // every neuron in exactly one expert
  any,    // neurons may be shared between experts or left out
};

/// Throws Error naming the expert or neuron at fault.
void check_partition(const Partition& partition, std::int64_t neurons, Coverage coverage);

/// Sizes of `experts` experts that hold `neurons` neurons: the first neurons % experts of them hold
/// one more. Throws InputError when there are fewer neurons than experts.
std::vector<std::int64_t> even_sizes(std::int64_t neurons, std::int64_t experts);

/// The partition that gives neuron n to expert labels[n].
Partition partition_of_labels(const std::vector<std::int32_t>& labels, std::int64_t experts);

}  // namespace moe
