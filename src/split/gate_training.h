// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "config/model_config.h"
#include "core/tensor.h"

namespace moe {

/// The weights of one layer's gate. Tensors that the kind of gate does not have are undefined.
struct GateWeights {
  Tensor weight, bias;    // linear: f32 [E, H], [E]
  Tensor hidden, output;  // mlp: f32 [E, H], [E, E]
};

/// Logits of a gate: f32 [rows of x, E].
Tensor gate_logits(const GateWeights& gate, const Tensor& x);

/// For every token, `value` at the k experts of the largest score and 0 elsewhere: f32 [tokens, E].
Tensor best_experts(const Tensor& scores, std::int64_t k, double value = 1);

/// A gate that predicts `targets` (f32 [tokens, E], rows sum to 1) from x (f32 [tokens, H]):
/// cross-entropy of its softmax, minimised with AdamW over seeded mini-batches (LLaMA-MoE v1's
/// "select", MoEfication).
GateWeights train_gate(GateKind kind, const Tensor& x, const Tensor& targets, std::uint64_t seed,
                       std::uint64_t stream);

}  // namespace moe
