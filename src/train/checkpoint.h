// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
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

/// The texts of a checkpoint (docs/file_formats.md). `state` is what training needs beside tensors;
/// its key "machine", if any, is what diff ignores.
struct CheckpointTexts {
  std::string state, model, config;  // state.json, model.json, config.yaml
};

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
  CheckpointTexts texts() const;
  std::string state_json() const;
  ModelConfig model_config() const;
  const std::vector<CheckpointTensor>& tensors() const;
  bool has(const std::string& name) const;
  /// Throws InputError when there is none of that name.
  const CheckpointTensor& tensor(const std::string& name) const;

  /// Rows [first_row, first_row + rows), on the CPU, from as many files as it takes. Throws
  /// InputError naming the tensor and the rows that are missing or stored twice, or the damaged
  /// file. Parts of a tensor that are read whole are held against their own checksum, too.
  Tensor read(const std::string& name, std::int64_t first_row, std::int64_t rows) const;
  /// Fills rows.value, on any device. Throws InputError when this checkpoint is of another model:
  /// the tensor has another shape or number type.
  void read_into(const TensorRows& rows) const;

  /// Checks all there is: every file, every row, every tensor's checksum, state and model. Reads a
  /// few MB at a time.
  void verify() const;

  /// Checks every file, the ranks each a share of them, and that tensors, state and model are
  /// complete; what each rank then reads is not checked again. Collective. Returns what is wrong,
  /// the same on every rank, or an empty text.
  std::string verify_together(Communicator& world) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace moe
