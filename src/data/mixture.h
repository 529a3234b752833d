// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

/// Progress through the mixture: how many sequences of each domain earlier steps have consumed, in
/// the order of the domains. All that a checkpoint needs.
struct MixtureState {
  std::vector<std::int64_t> consumed;
  friend bool operator==(const MixtureState&, const MixtureState&) = default;
};

/// One position of a global batch.
struct PlannedSequence {
  std::int32_t domain;
  std::int64_t index;  // of the sequence within its domain
  friend bool operator==(const PlannedSequence&, const PlannedSequence&) = default;
};

/// What the whole global batch of a step is.
struct StepPlan {
  std::vector<PlannedSequence> sequences;
  /// Global id of position 0; position p has first_id + p. Ids count the sequences of the run, so
  /// no two steps share one.
  std::int64_t first_id = 0;
  std::int64_t labels = 0;  // N_label: tokens that are scored
  std::int64_t tokens = 0;  // N_routed: tokens that are not padding
  MixtureState next;        // the state after the step
};

/// A domain as the mixture sees it.
struct DomainSize {
  std::string name;
  double weight;        // any scale; 0: never drawn
  std::int64_t tokens;  // of all its shards
};

/// A stream of `tokens` tokens cut into sequences of `length` inputs, whose labels are the tokens
/// that follow. Sequence i takes inputs [i*length, i*length + inputs(i)); only the last is short.
/// The stream's last token is a label and never an input, so every input has a label.
struct SequenceCut {
  std::int64_t tokens, length;

  std::int64_t count() const { return (tokens - 1 + length - 1) / length; }
  std::int64_t inputs(std::int64_t i) const {
    return i + 1 < count() ? length : tokens - 1 - i * length;
  }
};

/// Decides which sequence each position of each global batch is: a pure function of (seed, state,
/// step), the same on every rank and for every number of ranks. Touches no tokens.
///
/// A position draws domain d with probability weight_d / sum of weights: the least of
/// -log(u_d) / weight_d wins, u_d uniform from (seed, step, name of d, position). So neither the
/// order of the domains nor the sizes of their files matter, and a new domain only takes positions
/// from the others. Within a domain, epoch after epoch, each sequence comes once, in an order given
/// by (seed, name, epoch).
class Mixture {
 public:
  /// Throws InputError: no domain, a name twice, a weight below zero or none above it, a domain of
  /// less than two tokens.
  Mixture(std::vector<DomainSize> domains, std::int64_t length, std::uint64_t seed);

  const std::vector<DomainSize>& domains() const { return domains_; }
  std::int64_t length() const { return length_; }
  SequenceCut cut(std::size_t domain) const { return {domains_[domain].tokens, length_}; }
  MixtureState initial_state() const;

  /// Logs (on rank 0) when a domain begins again: epochs 2, 3, 5, 9, 17, ...
  StepPlan plan(std::int64_t step, std::int64_t global_batch, const MixtureState& state) const;

 private:
  std::vector<DomainSize> domains_;
  std::vector<std::uint64_t> keys_;  // a hash of each domain's name
  std::int64_t length_;
  std::uint64_t seed_;
};

/// Element i of a pseudo-random permutation of 0..n-1 named by (seed, key, epoch), found without
/// the others: a Feistel network over the next power of four, walked until it lands below n.
std::int64_t permuted_index(std::int64_t i, std::int64_t n, std::uint64_t seed, std::uint64_t key,
                            std::int64_t epoch);

}  // namespace moe
