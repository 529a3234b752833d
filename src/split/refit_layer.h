// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "split/expert_sum.h"

namespace moe {

/// What a refit goes by: this rank's tokens of one text.
struct RefitText {
  Tensor inputs;         // f32 [tokens, hidden]: what the FFN is given
  Tensor targets;        // f32 [tokens, hidden]: what it should give
  TokenRouting routing;  // whom the tokens choose
};

/// What became of a layer's down projections.
struct LayerRefit {
  Tensor down, bias;  // as ExpertSum::set_down takes them; undefined: the dense ones stay
  double ridge = 0, jitter = 0;
  /// |targets - outputs| / |targets| on the text that decides, with the dense down projections and
  /// with these.
  double error_before = 0, error_after = 0;
  double error_of_fit = 0;  // with these on the text that they are fitted to; 0 where none are kept
  std::string note;  // why they stay, or what to know of the refit; empty: nothing
};

/// Refits with every ridge and takes the one with the least error on the validation text; keeps the
/// dense projections where none helps, or where there are fewer tokens than neurons. Collective.
LayerRefit refit_layer(const ExpertSum& experts, std::int64_t shared_neurons,
                       const RefitText& calibration, const RefitText& validation, double scale,
                       bool bias, const std::vector<double>& ridges, Communicator& world);

/// |targets - outputs| / |targets| over all ranks' tokens.
double relative_error(const ExpertSum& experts, const RefitText& text, double scale,
                      Communicator& world);

}  // namespace moe
