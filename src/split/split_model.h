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
  std::string method;
  ModelFormat format = ModelFormat::llama_moe;
  DType dtype = DType::bf16;
  ParameterCounts parameters;
  std::int64_t bytes = 0;  // of all files written
  double seconds = 0;      // of all
  std::vector<std::string> warnings;
  std::vector<std::string> notes;  // WrittenModel::notes
};

/// Called now and then with the values written so far and in all.
using SplitProgress = std::function<void(std::int64_t done, std::int64_t total)>;

/// Plans the split and writes the model, one layer in memory at a time; the output folder appears
/// whole or not at all. Throws InputError, before any work, for options that cannot be (see
/// plan_split) and when the output exists without `force`. Collective; rank 0 writes.
SplitReport split_model(const SplitOptions& options, const SplitProgress& progress = {});
SplitReport split_model(const SplitOptions& options, Communicator& world,
                        const SplitProgress& progress = {});

}  // namespace moe
