// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_reshard.h"

#include <fmt/format.h>

#include <algorithm>

#include "comm/process_grid.h"
#include "core/error.h"
#include "train/checkpoint_files.h"
#include "train/checkpoint_folders.h"
#include "train/checkpoint_hdf5.h"
#include "train/checkpoint_publish.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMostFiles = 100000;

/// The text of the `file`-th of `files` files' manifest.
std::string write_file(const CheckpointReader& reader, const fs::path& folder, int file,
                       int files) {
  const std::string name = fmt::format("rank-{:05}.h5", file);
  Manifest part;
  RankFileWriter writer(folder / name);
  for (const CheckpointTensor& t : reader.tensors()) {
    const Share share = share_of(t.shape[0], file, files);
    writer.add(
        t.name, t.shape, t.dtype, share.first, share.count,
        [&](std::int64_t first, std::int64_t count) { return reader.read(t.name, first, count); });
  }
  part.tensors = writer.finish();
  const FileDigest digest = digest_of(folder / name);
  part.files.push_back({name, digest.bytes, digest.checksum});
  return to_text(part);
}

}  // namespace

std::int64_t reshard_checkpoint(const CheckpointReader& reader, const fs::path& output,
                                std::int64_t files, bool force) {
  MOE_REQUIRE(files >= 1 && files <= kMostFiles, "the number of files must lie between 1 and ",
              kMostFiles, ", is ", files);
  const fs::path folder = fs::absolute(output).lexically_normal();
  MOE_REQUIRE(!fs::exists(folder) || force, output.string(),
              ": exists already: choose another folder, or allow --force");
  MOE_REQUIRE(!fs::exists(folder) || is_checkpoint(folder), output.string(),
              ": is no checkpoint: only checkpoints are replaced");
  std::int64_t most_rows = 1;
  for (const CheckpointTensor& t : reader.tensors()) most_rows = std::max(most_rows, t.shape[0]);
  files = std::min(files, most_rows);

  const fs::path unfinished = folder.parent_path() / ("." + folder.filename().string() + ".tmp");
  std::error_code best_effort;
  fs::remove_all(unfinished, best_effort);  // of an interrupted call
  fs::create_directories(unfinished);
  try {
    std::vector<std::string> reports;
    for (int file = 0; file < int(files); ++file)
      reports.push_back(write_file(reader, unfinished, file, int(files)));
    complete_checkpoint(unfinished, merge_manifests(reader.step(), reports), reader.texts());
    CheckpointReader(unfinished).verify();
    put_in_place(unfinished, folder);
  } catch (...) {
    fs::remove_all(unfinished, best_effort);
    throw;
  }
  return files;
}

}  // namespace moe
