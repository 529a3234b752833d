// SPDX-License-Identifier: Apache-2.0
#include "data/mixture.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/log.h"
#include "core/rng.h"
#include "data/checksum.h"

namespace moe {
namespace {

constexpr std::uint64_t kFeistelRounds = 6;

}  // namespace

std::int64_t permuted_index(std::int64_t i, std::int64_t n, std::uint64_t seed, std::uint64_t key,
                            std::int64_t epoch) {
  MOE_CHECK(i >= 0 && i < n, "element ", i, " of a permutation of ", n);
  if (n == 1) return 0;
  const int half_bits = (std::bit_width(std::uint64_t(n - 1)) + 1) / 2;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  const Philox random(seed, RandomPurpose::document_order, {key, std::uint64_t(epoch)});
  auto x = std::uint64_t(i);
  do {
    std::uint64_t left = x >> half_bits, right = x & mask;
    for (std::uint64_t round = 0; round < kFeistelRounds; ++round) {
      const std::uint64_t mixed = left ^ (random.bits(round << 32 | right) & mask);
      left = right;
      right = mixed;
    }
    x = left << half_bits | right;
  } while (x >= std::uint64_t(n));
  return std::int64_t(x);
}

Mixture::Mixture(std::vector<DomainSize> domains, std::int64_t length, std::uint64_t seed)
    : domains_(std::move(domains)), length_(length), seed_(seed) {
  MOE_REQUIRE(!domains_.empty(), "the data has no domain");
  MOE_REQUIRE(length_ > 0, "a sequence length of ", length_);
  double total = 0;
  for (const DomainSize& domain : domains_) {
    MOE_REQUIRE(domain.weight >= 0 && std::isfinite(domain.weight), "domain '", domain.name,
                "': weight ", domain.weight, "; give a number that is not negative");
    MOE_REQUIRE(domain.tokens >= 2, "domain '", domain.name, "': ", domain.tokens,
                " tokens; a sequence needs two");
    total += domain.weight;
    keys_.push_back(checksum(domain.name));
  }
  MOE_REQUIRE(total > 0, "the weights of all domains are zero");
  std::vector<std::uint64_t> sorted = keys_;
  std::sort(sorted.begin(), sorted.end());
  MOE_REQUIRE(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end(),
              "two domains have the same name");
}

MixtureState Mixture::initial_state() const {
  return {std::vector<std::int64_t>(domains_.size(), 0)};
}

StepPlan Mixture::plan(std::int64_t step, std::int64_t global_batch,
                       const MixtureState& state) const {
  MOE_CHECK(global_batch > 0, "a global batch of ", global_batch);
  MOE_CHECK(state.consumed.size() == domains_.size(), "a mixture state of ", state.consumed.size(),
            " domains for a mixture of ", domains_.size());
  StepPlan plan;
  plan.next = state;
  plan.first_id = std::accumulate(state.consumed.begin(), state.consumed.end(), std::int64_t{0});
  plan.sequences.reserve(std::size_t(global_batch));

  std::vector<Philox> choice;
  for (const std::uint64_t key : keys_)
    choice.emplace_back(seed_, RandomPurpose::domain_choice,
                        std::initializer_list<std::uint64_t>{std::uint64_t(step), key});
  for (std::int64_t position = 0; position < global_batch; ++position) {
    std::size_t chosen = 0;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t d = 0; d < domains_.size(); ++d) {
      if (domains_[d].weight == 0) continue;
      const double u = 1 - choice[d].uniform(std::uint64_t(position));  // in (0, 1]
      const double arrival = -std::log(u) / domains_[d].weight;
      if (arrival < least) {
        least = arrival;
        chosen = d;
      }
    }
    const SequenceCut sequences = cut(chosen);
    const std::int64_t drawn = plan.next.consumed[chosen]++;
    const std::int64_t epoch = drawn / sequences.count();
    const std::int64_t index =
        permuted_index(drawn % sequences.count(), sequences.count(), seed_, keys_[chosen], epoch);
    plan.sequences.push_back({std::int32_t(chosen), index});
    plan.labels += sequences.inputs(index);
    plan.tokens += sequences.inputs(index);
  }

  for (std::size_t d = 0; d < domains_.size(); ++d) {
    const std::int64_t count = cut(d).count();
    // Epochs 2, 3, 5, 9, ... : a small domain would fill the log.
    const auto worth_saying = [&](std::int64_t consumed) {
      return std::bit_width(std::uint64_t(std::max<std::int64_t>(consumed - 1, 0) / count));
    };
    const std::int64_t drawn = plan.next.consumed[d];
    if (worth_saying(drawn) > worth_saying(state.consumed[d]))
      log_info("domain '{}': epoch {} begins at step {} ({} sequences an epoch)", domains_[d].name,
               (drawn - 1) / count + 1, step, count);
  }
  return plan;
}

}  // namespace moe
