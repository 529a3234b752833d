// SPDX-License-Identifier: Apache-2.0
#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moe {

double learning_rate(const TrainConfig::Schedule& s, double peak, std::int64_t step,
                     std::int64_t total_steps) {
  using Kind = TrainConfig::Schedule::Kind;
  if (step <= s.warmup_steps) return peak * double(step) / double(s.warmup_steps);
  switch (s.kind) {
    case Kind::constant:
      return peak;
    case Kind::cosine: {
      const double span = std::max<double>(1, double(total_steps - s.warmup_steps));
      const double p = std::min(1.0, double(step - s.warmup_steps) / span);
      return peak * std::max(s.floor, (1 + std::cos(std::numbers::pi * p)) / 2);
    }
    case Kind::wsd: {
      const std::int64_t into = step - (total_steps - s.decay_steps);
      if (into <= 0) return peak;
      const double p = std::min(1.0, double(into) / double(s.decay_steps));
      return peak * (1 - p * (1 - s.floor));
    }
  }
  return peak;
}

}  // namespace moe
