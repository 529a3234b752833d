// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/train_config.h"

namespace moe {

/// What is to become of a step. The order counts: of several ranks' verdicts the largest holds.
enum class Verdict : std::uint8_t { accept, loss_spike, norm_not_finite, loss_not_finite };
/// "the loss is not finite", ...: why a step is skipped.
const char* describe(Verdict verdict);

/// All that decides, as it stands in checkpoints.
struct GuardState {
  std::vector<double> losses;       // of the last accepted steps, oldest first
  std::int64_t accepted_step = 0;   // the step whose update was made last: whose weights these are
  std::int64_t skipped_steps = 0;   // in the whole run
  std::int64_t skipped_in_row = 0;  // up to now
  std::int64_t rollbacks = 0;       // in the whole run
  /// Where the last rollback went, until a step is accepted; -1 otherwise.
  std::int64_t rolled_back_to = -1;
  friend bool operator==(const GuardState&, const GuardState&) = default;
};
std::string to_json(const GuardState& state);
/// Throws InputError for what to_json did not write.
GuardState guard_state_from_json(const std::string& text);

/// Keeps bad steps out of the weights (docs/numerics.md, "Steps that are skipped"). Looks at
/// numbers of the global batch only, so that every rank decides the same.
class Guard {
 public:
  explicit Guard(const TrainConfig::Guard& limits) : limits_(limits) {}

  /// What to do with a step of this loss and gradient norm. Changes nothing.
  Verdict judge(double loss, double grad_norm) const;
  /// Notes that the step's update was made, or left out.
  void accept(std::int64_t step, double loss);
  void skip();

  /// guard.max_skipped steps in a row were skipped.
  bool wants_rollback() const { return state_.skipped_in_row >= limits_.max_skipped; }
  bool may_roll_back() const { return state_.rollbacks < limits_.max_rollbacks; }
  /// The latest step whose checkpoint a rollback may go to: the weights' own, unless the run has
  /// just been there.
  std::int64_t rollback_limit() const;
  /// Goes on from a checkpoint of `step` that held `saved`; what counts the whole run is kept.
  void roll_back(std::int64_t step, const GuardState& saved);

  const GuardState& state() const { return state_; }
  void set_state(GuardState state) { state_ = std::move(state); }

 private:
  TrainConfig::Guard limits_;
  GuardState state_;
};

}  // namespace moe
