// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "split/split_plan.h"
#include "train/held_out_loss.h"

namespace moe {

/// What a split did to the model's loss on held-out text, nats a token.
struct SplitLosses {
  HeldOutLoss dense;
  /// Right after the split, by experts chosen in the feed-forward; 0 where that is dense.
  std::map<std::int64_t, HeldOutLoss> by_top_k;
  /// Of the model that was asked for, where the format has no place for it (fit_to_format).
  std::optional<HeldOutLoss> in_native;
};

/// The file of a split model's folder that holds split_report_json.
inline constexpr const char* kSplitReport = "split.json";

/// The report as one JSON object (docs/file_formats.md).
std::string split_report_json(const SplitOptions& options, const SplitPlan& plan,
                              const std::optional<SplitLosses>& losses);

/// The same for people, several lines.
std::string split_report_text(const SplitOptions& options, const SplitPlan& plan,
                              const std::optional<SplitLosses>& losses);

}  // namespace moe
