// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/tape.h"
#include "kernels/backend.h"

namespace moe::ops {

/// Matrices of a run of experts, one row per neuron, the experts one after the other.
struct ExpertMatrices {
  Tensor gate, up, down;  // T[neurons, hidden]; gradients: acc

  /// Neurons [first, first + count) of each.
  ExpertMatrices slice(std::int64_t first, std::int64_t count) const {
    return {gate.slice(first, count), up.slice(first, count), down.slice(first, count)};
  }
};

/// Undefined contents, for the gradients of matrices shaped like `weight`.
ExpertMatrices gradients_like(const Tensor& weight);

/// One pass of rows through the SwiGLU feed-forward of their experts, y_e = (silu(x_e gate_e^T) *
/// (x_e up_e^T)) down_e, in steps, so that rows can travel between them. Keeps what the next step
/// needs but the rows themselves, and each step runs once.
class ExpertPass {
 public:
  /// row_offsets, neuron_offsets: E + 1 each. sharing: see ExpertGroups.
  ExpertPass(ExpertMatrices weights, std::vector<std::int64_t> row_offsets,
             std::vector<std::int64_t> neuron_offsets, std::int64_t sharing = 0);

  /// x: T[rows, hidden], sorted by expert.
  Tensor forward(const Tensor& x);
  /// dx. dy: T[rows, hidden].
  Tensor input_gradient(const Tensor& dy);
  /// Written into `gradients`; zeros for experts without rows. x: forward's. After input_gradient.
  void weight_gradients(ExpertMatrices& gradients, const Tensor& x);

 private:
  ExpertGroups groups() const { return {rows_, neurons_, sharing_}; }

  ExpertMatrices weights_;
  std::vector<std::int64_t> rows_, neurons_;
  std::int64_t sharing_;
  Tensor gate_, up_;        // after forward: the two products
  Tensor dy_, activation_;  // after input_gradient, when gate_ and up_ hold their gradients
};

/// ExpertPass as an op. A dense FFN is one expert. The three matrices want gradients together or
/// not at all.
Variable expert_ffn(const Variable& x, const Variable& gate, const Variable& up,
                    const Variable& down, std::vector<std::int64_t> row_offsets,
                    std::vector<std::int64_t> neuron_offsets);

}  // namespace moe::ops
