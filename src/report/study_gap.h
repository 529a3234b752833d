// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>
#include <string>

#include "report/study.h"

namespace moe {

/// What the arms of a study have to get back: nats that count as the whole (the loss that the null
/// adds: neurons pruned to as many, weights refitted) above a dense model's loss before training.
struct StudyGap {
  double nats = 0, dense_loss = 0;
};

/// Shares of the gap that are asked for.
inline constexpr std::array kGapShares = {0.5, 0.8, 0.9};

/// Throws InputError where the study has no dense arm, or `nats` is not positive.
StudyGap gap_of(const Study& study, double nats);

/// Tokens of training after which a run's held-out loss first is within the rest of the dense
/// model's, in a straight line between the losses that were measured; 0 where it begins there,
/// nothing where it never comes so far.
std::optional<double> tokens_to_close(const StudyRun& run, const StudyGap& gap, double share);

/// A table in Markdown of the arms that were split: tokens to close each share, means over the
/// seeds, and how far above the dense model trained on they end.
std::string gap_markdown(const Study& study, const StudyGap& gap);

}  // namespace moe
