// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "train/checkpoint.h"
#include "train/checkpoint_manifest.h"

namespace moe {

/// One rank's file being written: HDF5 datasets NAME/FIRST_ROW. Throws Error.
class RankFileWriter {
 public:
  explicit RankFileWriter(const std::filesystem::path& path);
  ~RankFileWriter();
  RankFileWriter(const RankFileWriter&) = delete;
  RankFileWriter& operator=(const RankFileWriter&) = delete;

  /// Rows [first_row, first_row + rows) of a tensor. give(first, count) is asked for them, in order
  /// and a few MB at a time. With no rows the tensor is only listed.
  void add(const std::string& name, const Shape& global_shape, DType dtype, std::int64_t first_row,
           std::int64_t rows,
           const std::function<Tensor(std::int64_t first, std::int64_t count)>& give);

  /// Syncs the file to the disk. Returns a tensor per name with a part per add() that had rows, all
  /// in file number 0.
  std::vector<ManifestTensor> finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// All of a rank's rows in one file, as RankFileWriter does it.
std::vector<ManifestTensor> write_rank_file(const std::filesystem::path& path,
                                            const std::vector<TensorRows>& rows);

/// One rank's file, opened for reading. Its bytes must be known to be good: libhdf5 crashes on
/// damaged ones.
class RankFile {
 public:
  explicit RankFile(const std::filesystem::path& path);
  ~RankFile();
  RankFile(RankFile&&) noexcept;

  /// Fills `out` with rows [first, first + out.rows()) of the whole tensor, all of them in `part`.
  /// Throws InputError when the dataset is not what the manifest says.
  void read(const ManifestTensor& tensor, const ManifestPart& part, std::int64_t first,
            const Tensor& out) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moe
