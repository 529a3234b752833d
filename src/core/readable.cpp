// SPDX-License-Identifier: Apache-2.0
#include "core/readable.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace moe {

std::string readable_count(double value) {
  if (value < 999.5) return fmt::format("{:.0f}", value);
  for (const char* suffix : {"k", "M", "G", "T"}) {
    value /= 1000;
    const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
    if (value < 999.5) return fmt::format("{:.{}f}{}", value, decimals, suffix);
  }
  return fmt::format("{:.0f}P", value / 1000);
}

std::string readable_seconds(double seconds) {
  const auto s = std::int64_t(std::llround(std::min(seconds, 3.6e8)));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
}

}  // namespace moe
