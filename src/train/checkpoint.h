// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/model_config.h"
#include "core/tensor.h"

namespace moe {

/// Rows [first_row, first_row + value.rows()) of a tensor whose whole shape is global_shape.
/// `value` has global_shape's dimensions but the first, which may be 0.
struct TensorRows {
  std::string name;
  Shape global_shape;
  std::int64_t first_row = 0;
  Tensor value;
};

/// Writes checkpoints/step-00001000/: one HDF5 file per rank that has rows, state.json, model.json,
/// config.yaml and the manifest (docs/file_formats.md). Collective: every rank brings rows, every
/// row of every tensor exactly once over all ranks; the texts are taken from rank 0. `state_json`
/// is what training needs beside tensors; its key "machine", if any, is what diff ignores.
///
/// All or nothing: everything is written and synced under a temporary name and renamed last, so
/// that the end of any process at any moment leaves the old checkpoints or the new one. A
/// checkpoint of the same step is replaced. What earlier, interrupted saves left is removed. Throws
/// Error on every rank, naming the one that failed and why; then nothing is left of the new
/// checkpoint. Returns the new folder.
std::filesystem::path save_checkpoint(const std::filesystem::path& checkpoints, std::int64_t step,
                                      const std::vector<TensorRows>& mine,
                                      const std::string& state_json, const std::string& model_json,
                                      const std::string& config_yaml, Communicator& world);

struct CheckpointTensor {
  std::string name;
  Shape shape;
  DType dtype = DType::f32;
};

/// A checkpoint opened for reading. No file is used before its size and checksum hold, each file is
/// checked once, and only files that hold wanted rows are touched. Safe from many threads.
class CheckpointReader {
 public:
  /// Reads the manifest. Throws InputError when it is missing, damaged or of another version.
  explicit CheckpointReader(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const;
  std::int64_t step() const;
  std::string state_json() const;
  std::string config_yaml() const;
  ModelConfig model_config() const;
  const std::vector<CheckpointTensor>& tensors() const;
  /// Throws InputError when there is none of that name.
  const CheckpointTensor& tensor(const std::string& name) const;

  /// Rows [first_row, first_row + rows), on the CPU, from as many files as it takes. Throws
  /// InputError naming the tensor and the rows that are missing or stored twice, or the damaged
  /// file.
  Tensor read(const std::string& name, std::int64_t first_row, std::int64_t rows) const;
  /// Fills rows.value, on any device. Throws InputError when this checkpoint is of another model:
  /// the tensor has another shape or number type.
  void read_into(const TensorRows& rows) const;

  /// Checks all there is: every file, every row, every tensor's checksum, state and model.
  void verify() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// Whether the folder is a complete checkpoint (it may still be damaged).
bool is_checkpoint(const std::filesystem::path& folder);

/// The checkpoint of the highest step, up to a given one, in a folder of checkpoints, if any.
std::optional<std::filesystem::path> latest_checkpoint(
    const std::filesystem::path& checkpoints,
    std::int64_t highest = std::numeric_limits<std::int64_t>::max());

/// What a user means by a folder: a checkpoint, a folder of checkpoints, or a run's folder; of
/// several checkpoints the latest. Throws InputError when there is none.
std::filesystem::path find_checkpoint(const std::filesystem::path& folder);

/// Renames checkpoints of steps after `step` to abandoned-step-N, so that a run that goes on from
/// `step` does not meet them again; nothing is deleted. One rank calls it. Throws Error. Returns
/// how many there were.
std::int64_t abandon_checkpoints_after(const std::filesystem::path& checkpoints, std::int64_t step);

/// Removes all but the `keep` checkpoints of the highest steps. One rank calls it. Throws Error.
void prune_checkpoints(const std::filesystem::path& checkpoints, std::int64_t keep);

}  // namespace moe
