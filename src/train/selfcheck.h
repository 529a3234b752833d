// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "train/engine.h"

namespace moe {

/// What a check found that held.
struct SelfcheckResult {
  std::int64_t tensors = 0, sequences = 0, length = 0;
  double worst = 0;  // largest relative difference of a gradient tensor
  std::string worst_tensor;
};

/// Computes one small batch of made-up tokens on the grid and in one process (rank 0, with the
/// whole model and its gradients in its memory) and compares the loss, the router losses, the
/// experts' loads, the gradient norm and every gradient, |difference| / |gradient| per tensor,
/// against what the number type's rounding explains. Two accumulation steps, padding and unscored
/// tokens are in it, and `documents` asks for rows of several documents. Everything is computed as
/// `options` say but for BalanceScope::rank, which depends on the layout by its nature: `sequence`
/// takes its place.
///
/// A rounding may tip a token to another expert, which changes gradients at once: up to three
/// batches are tried, and one that agrees is enough. When none does, throws Error on every rank,
/// naming the values or tensors, the ranks and the differences. Collective; leaves no trace.
SelfcheckResult selfcheck(const ModelConfig& config, const EngineOptions& options,
                          const ProcessGrid& grid, const ParameterRows& weights,
                          std::int64_t sequence_length, bool documents = false);

}  // namespace moe
