// SPDX-License-Identifier: Apache-2.0
#include "report/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace moe {
namespace {

constexpr double kRounding = 1e-9;  // in steps: what sums of steps may be off by

/// 1, 2 or 5 times a power of ten, at least `rough`.
double round_step(double rough) {
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough * (1 - kRounding)) return factor * power;
  return 10 * power;
}

/// A range with some extent, whatever it was.
void widen(double& least, double& most) {
  if (most - least > kRounding * std::abs(most)) return;
  const double more = std::max(std::abs(least) * 0.1, kRounding);
  least -= least == 0 ? 0 : more;
  most += more;
}

}  // namespace

Axis Axis::rounded(double least, double most, int ticks, bool logarithmic) {
  Axis a;
  widen(least, most);
  a.logarithmic_ = logarithmic && least > 0;
  if (!a.logarithmic_) {
    a.step_ = round_step((most - least) / ticks);
    const double from = std::floor(least / a.step_ + kRounding);
    const double to = std::ceil(most / a.step_ - kRounding);
    for (double i = from; i <= to; ++i) a.ticks_.push_back(i * a.step_);
  } else {
    const double from = std::floor(std::log10(least)), to = std::ceil(std::log10(most));
    const bool fine = std::log10(most / least) < 2;
    const double every = std::max(1.0, std::ceil((to - from) / (ticks + 1)));
    for (double power = from; power <= to; power += every) {
      a.ticks_.push_back(std::pow(10, power));
      if (!fine) continue;
      a.ticks_.push_back(2 * a.ticks_.back());
      a.ticks_.push_back(2.5 * a.ticks_.back());
    }
    while (a.ticks_.size() > 2 && a.ticks_[1] <= least) a.ticks_.erase(a.ticks_.begin());
    while (a.ticks_.size() > 2 && a.ticks_[a.ticks_.size() - 2] >= most) a.ticks_.pop_back();
  }
  a.first_ = std::min(least, a.ticks_.front());
  a.last_ = std::max(most, a.ticks_.back());
  return a;
}

Axis Axis::exact(double least, double most, int ticks) {
  Axis a;
  widen(least, most);
  a.first_ = least;
  a.last_ = most;
  a.step_ = round_step((most - least) / ticks);
  for (double i = std::ceil(least / a.step_ - kRounding); i * a.step_ <= most * (1 + kRounding);
       ++i)
    a.ticks_.push_back(i * a.step_);
  return a;
}

double Axis::at(double value) const {
  if (!logarithmic_) return (value - first_) / (last_ - first_);
  return std::log(std::max(value, 1e-300) / first_) / std::log(last_ / first_);
}

std::string Axis::text(double tick) const {
  if (tick == 0) return "0";
  const double size = std::abs(tick);
  const double step = logarithmic_ ? size : step_;
  const auto exponent = [](double x) { return int(std::floor(std::log10(x) + kRounding)); };
  const double largest = std::max(std::abs(first_), std::abs(last_));
  if (size < 1e-3 && (logarithmic_ || largest < 1e-3))
    return fmt::format("{:.{}e}", tick, std::max(0, exponent(size) - exponent(step)));
  double unit = 1;
  const char* suffix = "";
  constexpr std::pair<double, const char*> kUnits[] = {
      {1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}};
  for (const auto& [value, letter] : kUnits)
    if (size >= value * (1 - kRounding)) {
      unit = value;
      suffix = letter;
      break;
    }
  return fmt::format("{:.{}f}{}", tick / unit, std::max(0, -exponent(step / unit)), suffix);
}

}  // namespace moe
