// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/mixture.h"
#include "data/sequences.h"

namespace moe {

/// A domain of the training data as the configuration names it.
struct DomainSource {
  std::string name;
  std::vector<std::filesystem::path> files;  // token shards, read one after the other
  double weight = 1;
  std::int64_t max_epochs = 0;  // 0: no limit
};

/// What the whole global batch of a step is.
struct StepPlan : StepDraw {
  std::int64_t labels = 0;  // N_label: tokens that are scored
  std::int64_t tokens = 0;  // N_routed: tokens that are not padding
};

/// Reads training batches from the token shards of several domains. Holds no position: what a step
/// reads follows from its plan, so any rank can load any part of any step. Safe from many threads.
class Loader {
 public:
  /// `length`: inputs of a sequence. `vocabulary_size`: the model's. Throws InputError naming the
  /// file or domain; different tokenizers within one run are refused.
  Loader(const std::vector<DomainSource>& sources, std::int64_t length, std::uint64_t seed,
         std::int64_t vocabulary_size, const PackingOptions& packing = {});

  const Mixture& mixture() const { return mixture_; }
  const Sequences& sequences(std::size_t domain) const { return domains_[domain]; }

  /// What every sequence of the step's global batch is. Reads no tokens.
  StepPlan plan(std::int64_t step, std::int64_t global_batch, const MixtureState& state) const;

  /// Positions [first, first + count) of the global batch. Sequence ids are global, domains index
  /// the sources.
  Batch load(const StepDraw& plan, std::int64_t first, std::int64_t count) const;

 private:
  std::vector<Sequences> domains_;
  Mixture mixture_;
};

}  // namespace moe
