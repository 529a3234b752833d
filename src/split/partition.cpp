// SPDX-License-Identifier: Apache-2.0
#include "split/partition.h"

#include <numeric>

#include "core/error.h"

namespace moe {

std::vector<std::int64_t> sizes_of(const NeuronSets& sets) {
  std::vector<std::int64_t> result;
  for (const auto& set : sets) result.push_back(std::int64_t(set.size()));
  return result;
}

std::vector<std::int64_t> concatenated(const NeuronSets& sets) {
  std::vector<std::int64_t> result;
  for (const auto& set : sets) result.insert(result.end(), set.begin(), set.end());
  return result;
}

void check_partition(const Partition& partition, std::int64_t neurons, Coverage coverage) {
  std::vector<std::string> owner{std::size_t(neurons)};
  const auto check = [&](const NeuronSets& sets, const char* kind) {
    for (std::size_t e = 0; e < sets.size(); ++e) {
      const std::string expert = str(kind, " ", e);
      MOE_REQUIRE(!sets[e].empty(), expert, " has no neurons");
      std::int64_t previous = -1;
      for (const std::int64_t n : sets[e]) {
        MOE_REQUIRE(n >= 0 && n < neurons, expert, " names neuron ", n, " of ", neurons);
        MOE_REQUIRE(n > previous, "the neurons of ", expert, " do not ascend: ", n, " after ",
                    previous);
        previous = n;
        if (coverage == Coverage::any) continue;
        std::string& first = owner[std::size_t(n)];
        MOE_REQUIRE(first.empty(), "neuron ", n, " belongs to ", first, " and to ", expert);
        first = expert;
      }
    }
  };
  check(partition.experts, "expert");
  check(partition.shared, "shared expert");
  if (coverage == Coverage::any) return;
  for (std::size_t n = 0; n < owner.size(); ++n)
    MOE_REQUIRE(!owner[n].empty(), "neuron ", n, " belongs to no expert");
}

std::vector<std::int64_t> even_sizes(std::int64_t neurons, std::int64_t experts) {
  MOE_REQUIRE(experts >= 1, "the number of experts must be positive, is ", experts);
  MOE_REQUIRE(experts <= neurons, "cannot make ", experts, " experts of ", neurons,
              " FFN neurons: each expert needs one");
  std::vector<std::int64_t> sizes(std::size_t(experts), neurons / experts);
  for (std::int64_t e = 0; e < neurons % experts; ++e) ++sizes[std::size_t(e)];
  return sizes;
}

Partition partition_of_labels(const std::vector<std::int32_t>& labels, std::int64_t experts) {
  Partition partition;
  partition.experts.resize(std::size_t(experts));
  for (std::size_t n = 0; n < labels.size(); ++n)
    partition.experts.at(std::size_t(labels[n])).push_back(std::int64_t(n));
  return partition;
}

}  // namespace moe
