// SPDX-License-Identifier: Apache-2.0
#include "split/partition.h"

#include <numeric>

#include "core/error.h"

namespace moe {

std::vector<std::int64_t> Partition::sizes() const {
  std::vector<std::int64_t> result;
  for (const auto& expert : experts) result.push_back(std::int64_t(expert.size()));
  return result;
}

std::vector<std::int64_t> Partition::order() const {
  std::vector<std::int64_t> result;
  for (const auto& expert : experts) result.insert(result.end(), expert.begin(), expert.end());
  return result;
}

void check_partition(const Partition& partition, std::int64_t neurons, Coverage coverage) {
  std::vector<std::int64_t> owner(std::size_t(neurons), -1);
  for (std::size_t e = 0; e < partition.experts.size(); ++e) {
    const auto& expert = partition.experts[e];
    MOE_CHECK(!expert.empty(), "expert ", e, " has no neurons");
    std::int64_t previous = -1;
    for (const std::int64_t n : expert) {
      MOE_CHECK(n >= 0 && n < neurons, "expert ", e, " names neuron ", n, " of ", neurons);
      MOE_CHECK(n > previous, "the neurons of expert ", e, " do not ascend: ", n, " after ",
                previous);
      previous = n;
      if (coverage == Coverage::any) continue;
      auto& first = owner[std::size_t(n)];
      MOE_CHECK(first < 0, "neuron ", n, " belongs to expert ", first, " and to expert ", e);
      first = std::int64_t(e);
    }
  }
  if (coverage == Coverage::any) return;
  for (std::size_t n = 0; n < owner.size(); ++n)
    MOE_CHECK(owner[n] >= 0, "neuron ", n, " belongs to no expert");
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
