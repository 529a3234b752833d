// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "comm/communicator.h"
#include "split/cholesky.h"
#include "split/gate_training.h"

namespace moe {

/// Linear gates that predict targets from the same inputs: one Cholesky of X~^T X~ + lambda I
/// serves every fit, X~ being the inputs with a column of ones where there is a bias, lambda
/// `ridge` times the mean diagonal. All members are collective.
class GateRegression {
 public:
  /// x: f32 [this rank's tokens, hidden], kept and not copied. Throws InputError naming the row of
  /// a NaN or an infinity.
  GateRegression(Tensor x, double ridge, bool bias, Communicator& world);

  /// argmin over W of |T - X~ W|^2 + lambda |W|^2. targets: f32 [this rank's tokens, E].
  GateWeights ridge(const Tensor& targets) const;

  /// Majorise-minimise for the sum of logistic losses log(1 + e^z) - t z, z = X~ W, t in [0, 1]:
  ///   W <- W + 4 (X~^T X~ + lambda I)^-1 X~^T (T - sigmoid(X~ W))
  /// from W = 0 on, with Nesterov's momentum. The curvature of a logistic loss is at most 1/4
  /// (Boehning 1992), so no step is too long; lambda only shortens them. The first step is the
  /// ridge regression of 4 T - 2.
  GateWeights logistic(const Tensor& targets, int iterations) const;

  /// What had to be added to the diagonal besides lambda.
  double jitter() const { return cholesky_.jitter(); }

 private:
  /// f64 [hidden (+ 1), E], all ranks' sum: X~^T T, or X~^T (T - sigmoid(X~ w)) for a defined w.
  Tensor moments(const Tensor& targets, const Tensor& w) const;
  GateWeights gate(const Tensor& w) const;

  Tensor x_;
  bool bias_;
  Communicator& world_;
  Cholesky cholesky_;
};

}  // namespace moe
