// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe {

/// Over which tokens a balance loss that is no sum over tokens (CV^2, f*P) takes its statistics.
enum class BalanceScope : std::uint8_t {
  sequence,  // each sequence alone: the same on every EP x DP layout
  step,      // all sequences of one accumulation step, on all ranks (E statistics all-reduced)
  rank,      // what one rank holds in one micro-batch: LLaMA-MoE v1, depends on the layout
};

/// Coefficients of the router losses; each is summed over layers (docs/numerics.md).
struct RouterLosses {
  double cv_squared = 0.01;  // CV^2(importance) + CV^2(load), LLaMA-MoE v1
  double switch_top_k = 0;   // E * sum_e f_e P_e, 1 at uniform
  double z = 0;              // mean squared log-sum-exp of the logits
  BalanceScope scope = BalanceScope::sequence;
  /// LLaMA-MoE v1's own load formula, which compares the noise instead of the noisy logit.
  bool v1_load_formula = false;
};

}  // namespace moe
