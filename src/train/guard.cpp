// SPDX-License-Identifier: Apache-2.0
#include "train/guard.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace moe {

using Json = nlohmann::json;

const char* describe(Verdict verdict) {
  switch (verdict) {
    case Verdict::accept:
      return "accepted";
    case Verdict::loss_spike:
      return "the loss is a spike";
    case Verdict::norm_not_finite:
      return "the gradient norm is not finite";
    case Verdict::loss_not_finite:
      return "the loss is not finite";
  }
  throw Error("unknown verdict");
}

std::string to_json(const GuardState& s) {
  return Json{{"losses", s.losses},
              {"accepted_step", s.accepted_step},
              {"skipped_steps", s.skipped_steps},
              {"skipped_in_row", s.skipped_in_row},
              {"rollbacks", s.rollbacks},
              {"rolled_back_to", s.rolled_back_to}}
      .dump();
}

GuardState guard_state_from_json(const std::string& text) {
  try {
    const Json j = Json::parse(text);
    return {j.at("losses"),         j.at("accepted_step"), j.at("skipped_steps"),
            j.at("skipped_in_row"), j.at("rollbacks"),     j.at("rolled_back_to")};
  } catch (const Json::exception& e) {
    throw InputError(str("the guard's state: ", e.what()));
  }
}

Verdict Guard::judge(double loss, double grad_norm) const {
  if (!std::isfinite(loss)) return Verdict::loss_not_finite;
  if (!std::isfinite(grad_norm)) return Verdict::norm_not_finite;
  const auto n = std::int64_t(state_.losses.size());
  if (limits_.spike_factor == 0 || n < limits_.spike_window) return Verdict::accept;
  std::vector<double> sorted = state_.losses;
  std::ranges::sort(sorted);
  const double median = (sorted[std::size_t((n - 1) / 2)] + sorted[std::size_t(n / 2)]) / 2;
  return loss > limits_.spike_factor * median ? Verdict::loss_spike : Verdict::accept;
}

void Guard::accept(std::int64_t step, double loss) {
  state_.accepted_step = step;
  state_.skipped_in_row = 0;
  state_.rolled_back_to = -1;
  if (limits_.spike_factor == 0) return;
  std::vector<double>& losses = state_.losses;
  losses.push_back(loss);
  const auto surplus = std::int64_t(losses.size()) - limits_.spike_window;
  if (surplus > 0) losses.erase(losses.begin(), losses.begin() + surplus);
}

void Guard::skip() {
  ++state_.skipped_steps;
  ++state_.skipped_in_row;
}

std::int64_t Guard::rollback_limit() const {
  return state_.rolled_back_to >= 0 ? state_.rolled_back_to - 1 : state_.accepted_step;
}

void Guard::roll_back(std::int64_t step, const GuardState& saved) {
  const GuardState now = std::move(state_);
  state_ = saved;
  state_.skipped_steps = now.skipped_steps;
  state_.rollbacks = now.rollbacks + 1;
  state_.skipped_in_row = 0;
  state_.rolled_back_to = step;
}

}  // namespace moe
