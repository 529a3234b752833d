// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "core/descriptor.h"

namespace moe {

/// What a long job has done so far, in a folder that lives until the job is finished. A job that
/// dies at any moment goes on from the state that it saved last.
class JobFolder {
 public:
  /// Makes the folder, or opens the one that an earlier run left. `job`: a JSON object of all that
  /// what is saved here depends on. Throws InputError when another process works there, or when
  /// the folder holds another job, naming what differs; with `restart` that is thrown away.
  JobFolder(std::filesystem::path folder, std::string job, bool restart);
  /// Removes the folder unless something was saved; then says that it is kept.
  ~JobFolder();
  JobFolder(const JobFolder&) = delete;
  JobFolder& operator=(const JobFolder&) = delete;

  const std::filesystem::path& path() const { return folder_; }
  /// The JSON that save() was given last, by this run or an earlier one; empty: nothing yet.
  const std::string& state() const { return state_; }
  /// Replaces the saved state in one stroke. Files that it speaks of must be synced before.
  void save(const std::string& state);
  /// The job is done: removes the folder.
  void finish();

 private:
  std::filesystem::path folder_;
  std::string job_, state_;
  Descriptor lock_;
};

}  // namespace moe
