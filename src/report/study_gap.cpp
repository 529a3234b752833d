// SPDX-License-Identifier: Apache-2.0
#include "report/study_gap.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/readable.h"

namespace moe {
namespace {

double mean(const StudyArm& arm, double (StudyRun::*value)() const) {
  double sum = 0;
  for (const StudyRun& run : arm.runs) sum += (run.*value)();
  return sum / double(arm.runs.size());
}

const StudyArm& dense_arm(const Study& study) {
  const auto dense = std::find_if(study.arms.begin(), study.arms.end(),
                                  [](const StudyArm& arm) { return !arm.split; });
  MOE_REQUIRE(dense != study.arms.end(),
              "the study has no finished run of a dense model, above which the gap is");
  return *dense;
}

/// Mean over the seeds that come so far; how many do where not all.
std::string tokens_text(const StudyArm& arm, const StudyGap& gap, double share) {
  double sum = 0;
  std::size_t reached = 0;
  for (const StudyRun& run : arm.runs)
    if (const auto tokens = tokens_to_close(run, gap, share)) {
      sum += *tokens;
      ++reached;
    }
  if (reached == 0) return "not reached";
  const std::string tokens = readable_count(sum / double(reached));
  return reached == arm.runs.size()
             ? tokens
             : fmt::format("{} ({} of {} seeds)", tokens, reached, arm.runs.size());
}

}  // namespace

StudyGap gap_of(const Study& study, double nats) {
  MOE_REQUIRE(nats > 0, "a gap of ", nats, " nats cannot be closed: it must be positive");
  return {nats, mean(dense_arm(study), &StudyRun::before)};
}

std::optional<double> tokens_to_close(const StudyRun& run, const StudyGap& gap, double share) {
  const double wanted = gap.dense_loss + (1 - share) * gap.nats;
  double tokens = 0, last = run.before();
  if (last <= wanted) return 0;
  for (const auto& [at, loss] : run.losses) {
    if (loss <= wanted) return tokens + (at - tokens) * (last - wanted) / (last - loss);
    tokens = at;
    last = loss;
  }
  return std::nullopt;
}

std::string gap_markdown(const Study& study, const StudyGap& gap) {
  const double end = mean(dense_arm(study), &StudyRun::after);
  std::string text = "| arm | lost by the split |", rule = "|---|---:|";
  for (const double share : kGapShares) {
    text += fmt::format(" tokens to {:.0f} % |", 100 * share);
    rule += "---:|";
  }
  text += " above the dense model trained on |\n" + rule + "---:|\n";
  for (const StudyArm& arm : study.arms) {
    if (!arm.split) continue;
    text += fmt::format("| {} | {:.3f} |", arm.name, mean(arm, &StudyRun::before) - gap.dense_loss);
    for (const double share : kGapShares)
      text += fmt::format(" {} |", tokens_text(arm, gap, share));
    text += fmt::format(" {:.3f} |\n", mean(arm, &StudyRun::after) - end);
  }
  return text + fmt::format(
                    "\nTokens of training after which that share of the gap of {:.3f} nats a token "
                    "is closed: the held-out loss is within the rest of {:.3f}, the dense model's "
                    "before the training.\n",
                    gap.nats, gap.dense_loss);
}

}  // namespace moe
