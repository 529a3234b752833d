// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace moe {

/// A range of values along one side of a chart, linear or logarithmic, with round numbers to label.
class Axis {
 public:
  /// Covers [least, most], widened to whole ticks; about `ticks` of them. A logarithmic axis needs
  /// least > 0, and is linear otherwise.
  static Axis rounded(double least, double most, int ticks, bool logarithmic = false);
  /// Covers [least, most] and no more; ticks are the round numbers within.
  static Axis exact(double least, double most, int ticks);

  /// 0 at the first value, 1 at the last; beyond for values outside.
  double at(double value) const;
  double first() const { return first_; }
  double last() const { return last_; }
  bool logarithmic() const { return logarithmic_; }
  const std::vector<double>& ticks() const { return ticks_; }
  /// "1k", "2.5M", "0.25", "2e-05": with as many digits as tell the ticks apart.
  std::string text(double tick) const;

 private:
  double first_ = 0, last_ = 1, step_ = 1;
  bool logarithmic_ = false;
  std::vector<double> ticks_;
};

}  // namespace moe
