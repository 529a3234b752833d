// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"

namespace moe::ops {

/// SwiGLU feed-forward of every expert over its own rows: y_e = (silu(x_e gate_e^T) * (x_e up_e^T))
/// down_e. x: T[rows, hidden], sorted by expert; gate, up, down: T[neurons, hidden], the experts
/// one after the other; row_offsets, neuron_offsets: E + 1 each. A dense FFN is one expert. Experts
/// without rows get zero gradients.
Variable expert_ffn(const Variable& x, const Variable& gate, const Variable& up,
                    const Variable& down, std::vector<std::int64_t> row_offsets,
                    std::vector<std::int64_t> neuron_offsets);

}  // namespace moe::ops
