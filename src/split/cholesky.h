// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "split/lower_matrix.h"

namespace moe {

/// L of A + shift I = L L^T for a symmetric A without negative eigenvalues, in f64: a blocked
/// left-looking factorisation, the same bits on any number of threads.
///
/// Columns of A that depend on others leave pivots that are rounding alone, at most
/// size * 2^-52 of the column's own diagonal. Then jitter is added to the diagonal besides: 1000
/// times that share of its mean, ten times more at each try until the factorisation succeeds.
class Cholesky {
 public:
  /// `ridge` is a share of A's mean diagonal (of 1 where A is zero). Throws Error naming the column
  /// when A is not finite.
  Cholesky(const LowerMatrix& a, double ridge);

  std::int64_t size() const { return factor_.size(); }
  /// What stands on the diagonal besides A: ridge * mean diagonal + jitter.
  double shift() const { return shift_; }
  double jitter() const { return jitter_; }
  /// The first column that depends on those before it, where that made jitter necessary; else -1.
  std::int64_t dependent() const { return dependent_; }

  /// b = -L^-1 b and b = -L^-T b, in place: one after the other they are b = (A + shift I)^-1 b.
  /// b: [size, cols]. Threads share the products of wide b; callers with many columns do better by
  /// one task for each strip of them.
  void forward(Matrix<double> b, std::int64_t cols) const;
  void backward(Matrix<double> b, std::int64_t cols) const;

 private:
  LowerMatrix factor_;
  double shift_ = 0, jitter_ = 0;
  std::int64_t dependent_ = -1;
};

}  // namespace moe
