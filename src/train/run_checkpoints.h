// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>

#include "config/train_config.h"
#include "data/mixture.h"
#include "train/checkpoint_saver.h"
#include "train/engine.h"
#include "train/faults.h"
#include "train/run_progress.h"

namespace moe {

/// The checkpoints of one run: the engine's training state and the run's progress, to the disk and
/// back. A save that fails while training goes on is a warning, and the next one tries again. All
/// of it is collective.
class RunCheckpoints {
 public:
  /// `domains`: of the mixture. Keeps references.
  RunCheckpoints(const TrainConfig& config, int threads, const std::vector<DomainSize>& domains,
                 const FaultDrills& drills, Engine& engine);

  /// Starts to save the state as it is now (train.async_checkpoints: false: and waits). Waits first
  /// for a save that is under way.
  void begin(const RunProgress& progress);
  /// To be called between steps. The result of a save that has ended, once.
  std::optional<SaveResult> poll();
  /// Waits for the save under way.
  void finish();
  /// Saves and waits. Throws Error on every rank when that fails.
  void save(const RunProgress& progress);
  /// Step of the checkpoint that was saved or restored last; -1: none was.
  std::int64_t newest_step() const { return newest_step_; }

  /// Puts the moments and counts of a checkpoint into the engine, which has its weights already.
  /// Throws InputError when it is of another model.
  RunProgress restore(const CheckpointReader& reader);

 private:
  CheckpointTexts texts(const RunProgress& progress) const;
  void note(const SaveResult& result);

  const TrainConfig& config_;
  const std::vector<DomainSize>& domains_;
  const FaultDrills& drills_;
  Engine& engine_;
  const MachineRecord machine_;
  CheckpointSaver saver_;
  std::optional<SaveResult> ended_;  // not yet given to poll's caller
  std::int64_t newest_step_ = -1;
};

}  // namespace moe
