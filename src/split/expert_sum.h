// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "split/layer_quality.h"
#include "split/partition.h"

namespace moe {

/// One layer's FFN as a sum of experts, computed in f32 for calibration text. Its columns are the
/// neurons of the routed experts, one expert after the other, then those of the shared ones.
class ExpertSum {
 public:
  /// With the dense down projections and no biases.
  ExpertSum(const FfnMatrices& ffn, const Partition& partition);

  std::int64_t experts() const { return std::int64_t(offsets_.size()) - 1; }
  std::int64_t columns() const { return gate_.rows(); }
  /// First column of each routed expert, and of the shared ones.
  const std::vector<std::int64_t>& offsets() const { return offsets_; }
  const Tensor& down() const { return down_; }  // f32 [columns, hidden]

  /// From now on these: down f32 [columns, hidden], bias f32 [E, hidden] or undefined.
  void set_down(Tensor down, Tensor bias);

  /// f32 [rows of inputs, columns]. Holds them all: for callers that go through a text in parts.
  Tensor activations(const Tensor& inputs) const;
  /// scale * sum_j weight_j (expert_j + bias_j) + shared experts: f32 [rows, hidden].
  Tensor output(const Tensor& inputs, const TokenRouting& routing, double scale) const;
  /// Lengths of what the routed experts would give, f32 [rows, E]: ||y_e||.
  Tensor norms(const Tensor& inputs) const;

 private:
  Tensor gate_, up_, down_, bias_;
  std::vector<std::int64_t> offsets_;
};

/// What the dense FFN gives: f32 [rows, hidden].
Tensor dense_ffn_output(const Tensor& inputs, const FfnMatrices& ffn);

/// Tokens that are gone through at once, so that activations of few of them exist.
inline constexpr std::int64_t kTextPart = 1024;

}  // namespace moe
