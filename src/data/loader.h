// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/mixture.h"
#include "data/token_stream.h"

namespace moe {

/// A domain of the training data as the configuration names it.
struct DomainSource {
  std::string name;
  std::vector<std::filesystem::path> files;  // token shards, read one after the other
  double weight = 1;
};

/// Reads training batches from the token shards of several domains. Holds no position: what a step
/// reads follows from its plan, so any rank can load any part of any step. Safe from many threads.
class Loader {
 public:
  /// `length`: inputs of a sequence. `vocabulary_size`: the model's. Throws InputError naming the
  /// file or domain; different tokenizers within one run are refused.
  Loader(const std::vector<DomainSource>& sources, std::int64_t length, std::uint64_t seed,
         std::int64_t vocabulary_size);

  const Mixture& mixture() const { return mixture_; }
  MixtureState initial_state() const { return mixture_.initial_state(); }

  /// What every sequence of the step's global batch is: Mixture::plan.
  StepPlan plan(std::int64_t step, std::int64_t global_batch, const MixtureState& state) const {
    return mixture_.plan(step, global_batch, state);
  }

  /// Positions [first, first + count) of the global batch. Sequence ids are global, domains index
  /// the sources.
  Batch load(const StepPlan& plan, std::int64_t first, std::int64_t count) const;

 private:
  std::vector<TokenStream> streams_;
  Mixture mixture_;
};

}  // namespace moe
