// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace moe {

/// heartbeat.json of a run, for whoever supervises it (docs/file_formats.md). Written by the
/// training loop itself and by no thread: it grows old when training is stuck. Replaced as a whole,
/// so that a reader never sees half of it.
class Heartbeat {
 public:
  /// No file is written without a path.
  Heartbeat() = default;
  explicit Heartbeat(std::filesystem::path file) : file_(std::move(file)) {}

  /// Writes that the run is at `step`, busy with `phase` ("train", "evaluate", "save", ...). A
  /// file that cannot be written costs one warning and no run.
  void beat(std::int64_t step, std::string_view phase);

 private:
  std::filesystem::path file_;
  bool warned_ = false;
};

}  // namespace moe
