// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "data/hdf5_support.h"

namespace moe {

/// An HDF5 file being written, that survives a full disk.
///
/// libhdf5 1.10 crashes when closing a file whose last bytes cannot be written. Here it writes
/// through a driver of ours that never reports a failure: it keeps the first one, drops what
/// follows, and finish() throws it.
class Hdf5WriteFile {
 public:
  /// Creates the file, or empties it. Throws Error when that fails. The caller holds lock_hdf5()
  /// during this and every later call.
  explicit Hdf5WriteFile(const std::filesystem::path& path);
  Hdf5WriteFile(const Hdf5WriteFile&) = delete;
  Hdf5WriteFile& operator=(const Hdf5WriteFile&) = delete;

  hid_t get() const { return file_.get(); }
  /// Throws Error with the system's words when a write has failed so far.
  void check() const;
  /// Closes, syncs to the disk and checks. Without it the file is only closed.
  void finish();

 private:
  std::string path_;
  int failure_ = 0;  // errno of the first failed write; outlives file_
  Hdf5Handle file_;
};

}  // namespace moe
