// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "split/split_plan.h"

namespace moe {

/// The parameters of the planned model, gathered from the dense one as they are asked for; no more
/// than one layer's weights are held. `dense` must outlive the result.
ParameterRows split_rows(const ModelFolder& dense, const SplitPlan& plan, DType dtype);

/// What was made.
struct SplitReport {
  SplitPlan plan;
  ModelFormat format = ModelFormat::llama_moe;
  DType dtype = DType::bf16;
  ParameterCounts parameters;
  std::int64_t bytes = 0;    // of all files written
  double write_seconds = 0;  // without planning
  std::vector<std::string> warnings;
  std::vector<std::string> notes;  // WrittenModel::notes
};

/// Called now and then with the values written so far and in all.
using SplitProgress = std::function<void(std::int64_t done, std::int64_t total)>;

/// Writes a planned model, one layer in memory at a time; the folder appears whole or not at all,
/// with neuron_indices.safetensors (split/neuron_indices.h) in it and what `more_files` adds.
/// Throws InputError when the output exists without `force`.
SplitReport write_split(const ModelFolder& dense, const SplitOptions& options, SplitPlan plan,
                        const std::function<void(const std::filesystem::path&)>& more_files = {},
                        const SplitProgress& progress = {});

/// Plans and writes, on one process.
SplitReport split_model(const SplitOptions& options, const SplitProgress& progress = {});

}  // namespace moe
