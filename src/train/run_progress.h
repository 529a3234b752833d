// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "config/train_config.h"
#include "data/mixture.h"
#include "train/guard.h"

namespace moe {

/// How far a run is: what it goes on from beside the engine's tensors. state.json of a checkpoint
/// (docs/file_formats.md).
struct RunProgress {
  std::int64_t step = 0;             // steps done
  std::int64_t tokens = 0;           // labelled tokens that the weights were trained on
  std::int64_t optimizer_steps = 0;  // updates of the weights
  MixtureState mixture;
  std::map<std::string, std::int64_t> other_domains;  // consumed of domains that left the mixture
  GuardState guard;
  std::string teacher;  // checksum of the weights of the model that taught; empty: none
};

/// Where a run runs. When it changes, losses agree but not to the last bit.
struct MachineRecord {
  int ranks = 1, expert_parallel = 1, threads = 1;
};

/// `domains`: those of the mixture, in its order.
std::string progress_to_json(const RunProgress& progress, const TrainConfig& config,
                             const std::vector<DomainSize>& domains, const MachineRecord& machine);

/// Reads it again for a run whose configuration and domains may have changed since; rank 0 warns of
/// what did. Throws InputError starting with `where`.
RunProgress progress_from_json(const std::string& text, const std::string& where,
                               const TrainConfig& config, const std::vector<DomainSize>& domains,
                               const MachineRecord& machine);

}  // namespace moe
