// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace moe {

/// The factor on the weighted sum of experts.
struct SplitScale {
  enum class Rule : std::uint8_t {
    natural,        // experts / top_k for parts of a whole; Construction::natural_scale
    variance,       // sqrt(experts * top_k): k of E independent parts, weighing 1/k each, then have
                    // the variance of the whole
    least_squares,  // per layer, what brings the output nearest to the dense one on calibration
                    // text
    number,
  };
  Rule rule = Rule::natural;
  double value = 0;  // of `number`

  SplitScale() = default;
  SplitScale(Rule r) : rule(r) {}
  SplitScale(double v) : rule(Rule::number), value(v) {}
};

/// A number, "natural", "variance" or "least-squares"; throws InputError otherwise.
SplitScale split_scale_named(const std::string& text);
std::string name(const SplitScale& scale);

/// The scale of every rule but least_squares, whose starting point is natural: `natural` is that
/// one's where weights sum to 1, as those of a softmax over the chosen experts do.
double scale_without_text(const SplitScale& scale, double natural, std::int64_t experts,
                          std::int64_t top_k, bool softmax_over_all);

}  // namespace moe
