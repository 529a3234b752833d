// SPDX-License-Identifier: Apache-2.0
#include "data/mixture.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/log.h"
#include "core/rng.h"
#include "data/checksum.h"

namespace moe {
namespace {

constexpr std::uint64_t kFeistelRounds = 6;
constexpr std::uint64_t kPositions = 0;  // the key of the order of a step's positions

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

Mixture::Mixture(std::vector<DomainSize> domains, std::uint64_t seed)
    : domains_(std::move(domains)), seed_(seed) {
  MOE_REQUIRE(!domains_.empty(), "the data has no domain");
  double total = 0;
  std::set<std::string> names;
  for (const DomainSize& d : domains_) {
    MOE_REQUIRE(d.weight >= 0 && std::isfinite(d.weight), "domain '", d.name, "': weight ",
                d.weight, "; give a number that is not negative");
    MOE_REQUIRE(d.sequences > 0, "domain '", d.name, "' has no sequence");
    MOE_REQUIRE(d.max_epochs >= 0, "domain '", d.name, "': a limit of ", d.max_epochs, " epochs");
    MOE_REQUIRE(names.insert(d.name).second, "two domains have the same name, '", d.name, "'");
    total += d.weight;
    keys_.push_back(checksum(d.name));
    order_.push_back(order_.size());
  }
  MOE_REQUIRE(total > 0 && std::isfinite(total), "the weights of all domains are zero");
  std::sort(order_.begin(), order_.end(),
            [&](std::size_t a, std::size_t b) { return keys_[a] < keys_[b]; });
}

MixtureState Mixture::initial_state() const {
  MixtureState state{
      std::vector<std::int64_t>(domains_.size(), 0), {}, std::vector<double>(domains_.size(), 0)};
  double total = 0;
  for (const std::size_t d : order_) total += domains_[d].weight;
  for (const DomainSize& d : domains_) state.weights.push_back(d.weight / total);
  return state;
}

void Mixture::require_enough(const MixtureState& state, std::int64_t draws) const {
  std::int64_t left = 0;
  for (std::size_t d = 0; d < domains_.size(); ++d) {
    const std::int64_t limit = domains_[d].limit();
    if (domains_[d].weight == 0) continue;
    if (limit < 0) return;
    left += std::max<std::int64_t>(limit - state.consumed[d], 0);
  }
  MOE_REQUIRE(left >= draws, "the domains have ", left, " sequences left within their max_epochs, ",
              "the run needs ", draws, ": allow more epochs, add data, or train fewer steps");
}

/// Draws one domain and books it.
std::size_t Mixture::next_domain(MixtureState& state) const {
  constexpr std::size_t kNone = std::size_t(-1);
  const auto drawable = [&](std::size_t d) {
    const std::int64_t limit = domains_[d].limit();
    return state.weights[d] > 0 && (limit < 0 || state.consumed[d] < limit);
  };
  double total = 0;
  std::int64_t domains = 0;
  for (const std::size_t d : order_)
    if (drawable(d)) total += state.weights[d], ++domains;
  MOE_CHECK(domains > 0,
            "all domains have been read max_epochs times: nothing is left to train on");

  // Tijdeman: nobody runs more than 1 - slack ahead, and who would fall that far behind first is
  // next.
  const double slack = domains > 1 ? 1.0 / double(2 * domains - 2) : 1;
  std::size_t chosen = kNone, most_owed = kNone;
  double earliest = 0;
  for (const std::size_t d : order_) {
    if (!drawable(d)) continue;
    const double share = state.weights[d] / total;
    double& owed = state.owed[d];
    owed += share;
    if (most_owed == kNone || owed > state.owed[most_owed]) most_owed = d;
    if (owed < slack) continue;
    const double time_left = (1 - slack - owed) / share;
    if (chosen == kNone || time_left < earliest) {
      chosen = d;
      earliest = time_left;
    }
  }
  if (chosen == kNone) chosen = most_owed;  // what a domain at its limit was owed is not made up
  state.owed[chosen] -= 1;
  return chosen;
}

StepDraw Mixture::draw(std::int64_t step, std::int64_t global_batch,
                       const MixtureState& state) const {
  MOE_CHECK(global_batch > 0, "a global batch of ", global_batch);
  const auto fits = [&](const auto& values) { return values.size() == domains_.size(); };
  MOE_CHECK(fits(state.consumed) && fits(state.weights) && fits(state.owed), "a mixture state of ",
            state.consumed.size(), " domains for a mixture of ", domains_.size());
  StepDraw result;
  result.next = state;
  result.first_id = std::accumulate(state.consumed.begin(), state.consumed.end(), std::int64_t{0});
  result.sequences.resize(std::size_t(global_batch));
  for (std::int64_t i = 0; i < global_batch; ++i) {
    const std::size_t chosen = next_domain(result.next);
    const std::int64_t n = domains_[chosen].sequences, drawn = result.next.consumed[chosen]++;
    // The pattern of the draws must not meet that of the ranks.
    const std::int64_t position = permuted_index(i, global_batch, seed_, kPositions, step);
    result.sequences[std::size_t(position)] = {
        std::int32_t(chosen), permuted_index(drawn % n, n, seed_, keys_[chosen], drawn / n)};
  }
  return result;
}

void Mixture::announce(std::int64_t step, const MixtureState& before,
                       const MixtureState& after) const {
  for (std::size_t d = 0; d < domains_.size(); ++d) {
    const std::int64_t n = domains_[d].sequences, limit = domains_[d].limit();
    // Epochs 2, 3, 5, 9, ... : a small domain would fill the log.
    const auto worth_saying = [&](std::int64_t consumed) {
      return std::bit_width(std::uint64_t(std::max<std::int64_t>(consumed - 1, 0) / n));
    };
    const std::int64_t drawn = after.consumed[d];
    if (worth_saying(drawn) > worth_saying(before.consumed[d]))
      log_info("domain '{}': epoch {} begins at step {} ({} sequences an epoch, in a new order)",
               domains_[d].name, (drawn - 1) / n + 1, step, n);
    if (limit >= 0 && drawn == limit && before.consumed[d] < limit)
      log_info("domain '{}': read {} times by step {}, its max_epochs; others take its share",
               domains_[d].name, domains_[d].max_epochs, step);
  }
}

std::vector<double> reweighted(const std::vector<double>& weights,
                               const std::vector<double>& excess, const MixtureOptions& options) {
  MOE_CHECK(weights.size() == excess.size(), weights.size(), " weights, ", excess.size(),
            " losses");
  std::vector<double> exponents(weights.size());
  double largest = -std::numeric_limits<double>::infinity(), domains = 0;
  for (std::size_t d = 0; d < weights.size(); ++d) {
    if (weights[d] == 0) continue;
    MOE_CHECK(std::isfinite(excess[d]), "a loss that is not finite");
    exponents[d] = options.rate * (options.clip ? std::max(excess[d], 0.0) : excess[d]);
    largest = std::max(largest, exponents[d]);
    ++domains;
  }
  std::vector<double> result(weights.size(), 0);
  double total = 0;
  for (std::size_t d = 0; d < weights.size(); ++d)
    if (weights[d] > 0) total += result[d] = weights[d] * std::exp(exponents[d] - largest);
  for (std::size_t d = 0; d < weights.size(); ++d)
    if (weights[d] > 0)
      result[d] = (1 - options.smoothing) * result[d] / total + options.smoothing / domains;
  return result;
}

}  // namespace moe
