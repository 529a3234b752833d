// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>

#include "train/event_file.h"
#include "train/metrics.h"

namespace moe {

/// What TensorBoard shows of a step: the metrics as scalars, the experts' load as one histogram for
/// each layer (docs/file_formats.md has the tags). Numbers that do not exist are left out.
EventRecord event_record(const StepMetrics& metrics);

/// The event files of a run: FOLDER by steps, FOLDER/by_tokens the losses with trained tokens in
/// the place of steps (a run of its own to TensorBoard). What cannot be written, on a full disk
/// say, costs one warning and those records, never the run.
class TensorBoard {
 public:
  /// Goes on after `last_step`, when `tokens` had been trained on; what older files hold of later
  /// steps no longer counts.
  TensorBoard(const std::filesystem::path& folder, std::int64_t last_step, std::int64_t tokens);

  void write(const StepMetrics& metrics);

 private:
  void guarded(const std::function<void()>& writing);

  std::optional<EventFile> steps_, tokens_;
  bool warned_ = false;
};

}  // namespace moe
