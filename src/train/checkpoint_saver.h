// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "train/checkpoint.h"
#include "train/checkpoint_folders.h"

namespace moe {

/// How a save ended. Step, folder, failure and seconds_still are the same on every rank; the rest
/// is known to rank 0.
struct SaveResult {
  std::int64_t step = 0;
  std::filesystem::path folder;
  std::string failure;       // why it was not saved, by rank; empty: it is there
  std::string warning;       // what went wrong once it was there: removing older ones
  std::int64_t bytes = 0;    // of all files
  double seconds = 0;        // from the snapshot until the checkpoint had its name, synced
  double seconds_still = 0;  // that training waited for the save; of the rank that waited longest
};

/// Saves checkpoints while training goes on: step-00001000/ with one HDF5 file per rank that has
/// rows, state.json, model.json, config.yaml and the manifest (docs/file_formats.md).
///
/// begin() copies the rows that this rank brings, so later steps may change them. Then a thread of
/// each rank writes and syncs that rank's file; poll(), between steps, finds out together with the
/// other ranks whether all have; then a thread of rank 0 writes the manifest and gives the folder
/// its name. Threads touch only files and the copies: collectives run where they are called.
///
/// All or nothing: the end of any process at any moment leaves the checkpoints that were there or
/// the new one too, and a failure on any rank leaves nothing of the new one. A checkpoint of the
/// same step is replaced. What interrupted saves left is removed.
class CheckpointSaver {
 public:
  /// Collective. Throws Error on every rank when remains of earlier saves cannot be removed.
  CheckpointSaver(std::filesystem::path checkpoints, const Retention& keep, Communicator& world);
  /// Waits for this rank's thread. A save that is still under way is lost.
  ~CheckpointSaver() = default;
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  /// Gets the memory of the copies ready, so that the first begin() takes no longer than the
  /// others.
  void reserve(const std::vector<TensorRows>& mine);

  bool busy() const { return phase_ != Phase::idle; }

  /// Starts a save of the state as it is now. Every rank brings rows, all ranks together every row
  /// of every tensor once; the texts are taken from rank 0. Not while busy(). Not collective, but
  /// every rank calls it.
  void begin(std::int64_t step, std::vector<TensorRows> mine, CheckpointTexts texts);

  /// Moves the save along and gives its result when it has ended. One small collective while
  /// busy(), none otherwise.
  std::optional<SaveResult> poll();

  /// Waits for the save under way, if any. Collective.
  std::optional<SaveResult> finish();

  /// begin() and finish() in one, without a copy or a thread: for when training stands still.
  SaveResult save(std::int64_t step, std::vector<TensorRows> mine, CheckpointTexts texts);

 private:
  enum class Phase { idle, writing, publishing };
  using Clock = std::chrono::steady_clock;

  void start(std::launch policy, std::int64_t step, std::vector<TensorRows> mine,
             CheckpointTexts texts);
  /// Copies of the rows, in memory that is kept.
  std::vector<TensorRows> snapshot(std::vector<TensorRows> mine);
  void start_publishing();
  SaveResult conclude();
  /// Gives write_part's report or publish's warning.
  std::string write_part(const std::vector<TensorRows>& mine) const;
  std::string publish(const std::vector<std::string>& reports);

  const std::filesystem::path checkpoints_;
  const Retention keep_;
  Communicator& world_;

  Phase phase_ = Phase::idle;
  std::launch policy_ = std::launch::async;
  CheckpointTexts texts_;
  SaveResult result_;
  Clock::time_point begun_;
  double seconds_still_ = 0;       // of this rank
  std::vector<Tensor> snapshot_;   // kept from save to save: touching fresh memory takes time
  std::future<std::string> work_;  // this rank's, if it has any; last: its end is waited for first
};

/// One save, waited for. Collective. Throws Error on every rank, naming the one that failed and
/// why. Returns the new folder.
std::filesystem::path save_checkpoint(const std::filesystem::path& checkpoints, std::int64_t step,
                                      const std::vector<TensorRows>& mine,
                                      const CheckpointTexts& texts, Communicator& world);

}  // namespace moe
