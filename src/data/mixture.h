// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/data_options.h"

namespace moe {

/// Progress through the mixture, in the order of the domains: all that a checkpoint needs.
struct MixtureState {
  std::vector<std::int64_t> consumed;  // sequences that earlier steps have drawn
  std::vector<double> weights;         // shares of the coming draws; they sum to 1
  std::vector<double> owed;            // sequences that the shares so far amount to, less consumed
  friend bool operator==(const MixtureState&, const MixtureState&) = default;
};

/// One position of a global batch.
struct PlannedSequence {
  std::int32_t domain;
  std::int64_t index;  // of the sequence within its domain
  friend bool operator==(const PlannedSequence&, const PlannedSequence&) = default;
};

/// What the sequences of a step's global batch are.
struct StepDraw {
  std::vector<PlannedSequence> sequences;
  /// Global id of position 0; position p has first_id + p. Ids count the sequences of the run, so
  /// no two steps share one.
  std::int64_t first_id = 0;
  MixtureState next;  // the state after the step
};

/// A domain as the mixture sees it.
struct DomainSize {
  std::string name;
  double weight;                // any scale; 0: never drawn
  std::int64_t sequences;       // of an epoch
  std::int64_t max_epochs = 0;  // after so many it is drawn no more; 0: no limit

  /// Sequences that it can give; -1: any number.
  std::int64_t limit() const { return max_epochs == 0 ? -1 : max_epochs * sequences; }
};

/// Decides which sequence each position of each global batch is: a pure function of (seed, state,
/// step), the same on every rank and for every number of ranks. Touches no tokens.
///
/// Draw n takes a domain so that after each draw every domain has had its share of all draws, to
/// less than one sequence: |consumed_d - sum of weight_d over draws| < 1. Of the domains that may
/// be drawn without running ahead of that, it is the one whose latest time is next (Tijdeman 1980,
/// the chairman assignment problem; ties by a hash of the name, so the order of the domains does
/// not matter). A step's draws are then spread over its positions at random. Within a domain, epoch
/// after epoch, each sequence comes once, in an order given by (seed, name, epoch). A domain at its
/// limit leaves its share to the others.
class Mixture {
 public:
  /// Throws InputError: no domain, a name twice, a weight below zero or none above it, a domain
  /// without sequences.
  Mixture(std::vector<DomainSize> domains, std::uint64_t seed);

  const std::vector<DomainSize>& domains() const { return domains_; }
  MixtureState initial_state() const;

  /// Throws Error when all domains are at their limits.
  StepDraw draw(std::int64_t step, std::int64_t global_batch, const MixtureState& state) const;

  /// Says in the log which domains begin an epoch (2, 3, 5, 9, 17, ...) or reach their limit
  /// between two states. On rank 0.
  void announce(std::int64_t step, const MixtureState& before, const MixtureState& after) const;

  /// Throws InputError when the domains' limits allow less than `draws` sequences from here.
  void require_enough(const MixtureState& state, std::int64_t draws) const;

 private:
  std::size_t next_domain(MixtureState& state) const;

  std::vector<DomainSize> domains_;
  std::vector<std::uint64_t> keys_;  // a hash of each domain's name
  std::vector<std::size_t> order_;   // of the domains, by key: sums and ties know no other
  std::uint64_t seed_;
};

/// The weights after an evaluation, by the formula of MixtureOptions, over the domains whose weight
/// is not zero. excess: loss - reference loss of each domain, finite.
std::vector<double> reweighted(const std::vector<double>& weights,
                               const std::vector<double>& excess, const MixtureOptions& options);

/// Element i of a pseudo-random permutation of 0..n-1 named by (seed, key, epoch), found without
/// the others: a Feistel network over the next power of four, walked until it lands below n.
std::int64_t permuted_index(std::int64_t i, std::int64_t n, std::uint64_t seed, std::uint64_t key,
                            std::int64_t epoch);

}  // namespace moe
