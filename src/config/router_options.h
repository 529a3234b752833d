// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <optional>

namespace moe {

/// Over which tokens a balance loss that is no sum over tokens (CV^2, f*P) takes its statistics.
/// What each promises: docs/numerics.md.
enum class BalanceScope : std::uint8_t {
  sequence,      // each sequence alone: the same on every EP x DP layout
  step,          // all sequences of one accumulation step, on all ranks (E statistics all-reduced)
  global_batch,  // f of the whole previous step, P of each token: the same on every layout; no CV^2
  rank,          // what one rank holds in one micro-batch: LLaMA-MoE v1, depends on the layout
};

/// How routers are kept balanced in training: losses, noise, capacity and bias. Coefficients are of
/// losses that are summed over layers. Definitions: docs/numerics.md.
struct RouterOptions {
  double cv_squared = 0.01;  // CV^2(importance) + CV^2(load), LLaMA-MoE v1
  double switch_top_k = 0;   // E * sum_e f_e P_e, 1 at uniform
  double z = 0;              // mean squared log-sum-exp of the logits
  BalanceScope scope = BalanceScope::sequence;
  /// LLaMA-MoE v1's own load formula, which compares the noise instead of the noisy logit.
  bool v1_load_formula = false;
  /// Steps over which gate noise falls in a straight line to none; 0: it stays.
  std::int64_t noise_anneal_steps = 0;
  /// Pairs that an expert takes from a sequence, over the mean; 0: all of them.
  double capacity_factor = 0;
  /// Step of the selection bias after each global batch (DeepSeek-V3); 0: it stays as it is.
  double bias_update_rate = 0;
  /// Experts per token in a run's first step, 0: all of them; unset: as many as the model's.
  std::optional<std::int64_t> top_k_from;
  /// The step from which on it is the model's.
  std::int64_t top_k_steps = 0;

  /// Every so many steps the feed-forward's linear gates are made anew (train/router_refresh.h); 0:
  /// never.
  std::int64_t refresh_every = 0;
  /// The share of the new gate; the rest is the gate that training has made.
  double refresh_blend = 1;

  /// Experts per token in a step, the first of which is 1: from top_k_from to the model's `top_k`
  /// in half a cosine wave, rounded.
  std::int64_t top_k_in(std::int64_t step, std::int64_t top_k, std::int64_t experts) const {
    if (!top_k_from || step >= top_k_steps) return top_k;
    const std::int64_t from = *top_k_from == 0 ? experts : *top_k_from;
    const double p = double(step - 1) / double(top_k_steps - 1);
    return top_k + std::llround(double(from - top_k) * (1 + std::cos(std::numbers::pi * p)) / 2);
  }

  /// The factor on gate noise in a step, the first of which is 1.
  double noise_factor(std::int64_t step) const {
    if (noise_anneal_steps == 0) return 1;
    const double left = double(noise_anneal_steps - (step - 1)) / double(noise_anneal_steps);
    return left > 0 ? left : 0;
  }

  /// Pairs that an expert takes from a sequence of `tokens`: ceil(capacity_factor * tokens * k /
  /// E).
  std::int64_t capacity(std::int64_t tokens, std::int64_t top_k, std::int64_t experts) const {
    const double pairs = capacity_factor * double(tokens * top_k) / double(experts);
    return std::int64_t(std::ceil(pairs * (1 - 1e-12)));  // 1.1 * 50 is 55 and a little more
  }
};

}  // namespace moe
