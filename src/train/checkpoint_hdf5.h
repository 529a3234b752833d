// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "train/checkpoint.h"
#include "train/checkpoint_manifest.h"

namespace moe {

/// Writes one rank's rows as HDF5 datasets NAME/FIRST_ROW, synced to the disk. Returns a tensor per
/// name with a part per TensorRows that has rows, all in file number 0. Throws Error.
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
