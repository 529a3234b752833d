// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "train/metrics.h"

namespace moe {

/// What the view shows.
struct ViewFacts {
  StepMetrics metrics;  // of the last step
  std::int64_t total_steps = 0;
  std::vector<double> losses;              // of the last steps
  std::map<std::string, double> held_out;  // of the last evaluation
  std::int64_t held_out_step = 0;
  double seconds_gone = 0, seconds_left = NAN;
};

/// The lines of the view, without their ends, for a terminal of `width` columns: what matters most
/// stands first, longer lines are to be cut.
std::vector<std::string> view_lines(const ViewFacts& facts, int width);

/// What people see of a run while it trains: a few lines that are redrawn in place on a terminal,
/// else a plain line now and then. The loop tells it of each step.
class TrainingView {
 public:
  TrainingView(std::int64_t total_steps, bool live);
  ~TrainingView();
  TrainingView(const TrainingView&) = delete;
  TrainingView& operator=(const TrainingView&) = delete;

  /// `due`: the plain line of this step is wanted; that of an evaluation always is. Cheap: draws
  /// ten times a second at most.
  void show(const StepMetrics& metrics, double seconds_left, bool due);

 private:
  using Clock = std::chrono::steady_clock;

  bool live_;
  ViewFacts facts_;
  Clock::time_point start_ = Clock::now(), next_ = start_;
};

}  // namespace moe
