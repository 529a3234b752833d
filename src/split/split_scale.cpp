// SPDX-License-Identifier: Apache-2.0
#include "split/split_scale.h"

#include <charconv>
#include <cmath>

#include "core/error.h"

namespace moe {

SplitScale split_scale_named(const std::string& text) {
  if (text == "natural") return SplitScale::Rule::natural;
  if (text == "variance") return SplitScale::Rule::variance;
  if (text == "least-squares") return SplitScale::Rule::least_squares;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  MOE_REQUIRE(error == std::errc() && end == text.data() + text.size(), "unknown scale '", text,
              "': use a number, natural, variance or least-squares");
  return value;
}

std::string name(const SplitScale& scale) {
  switch (scale.rule) {
    case SplitScale::Rule::natural:
      return "natural";
    case SplitScale::Rule::variance:
      return "variance";
    case SplitScale::Rule::least_squares:
      return "least-squares";
    case SplitScale::Rule::number:
      return str(scale.value);
  }
  return "?";
}

double scale_without_text(const SplitScale& scale, double natural, std::int64_t experts,
                          std::int64_t top_k, bool softmax_over_all) {
  const auto e = double(experts), k = double(top_k);
  // A softmax over all experts gives k of them k / E in all where one over the chosen gives 1.
  const double share = softmax_over_all ? e / k : 1;
  switch (scale.rule) {
    case SplitScale::Rule::number:
      return scale.value;
    case SplitScale::Rule::variance:
      return share * std::sqrt(e * k);
    default:
      return share * natural;
  }
}

}  // namespace moe
