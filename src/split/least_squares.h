// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "comm/communicator.h"
#include "core/tensor.h"
#include "split/normal_sums.h"

namespace moe {

/// The weights of a least-squares problem and what they reach.
struct Solution {
  Tensor w;  // f32 [unknowns, outputs]
  /// What had to be added to the diagonal besides the ridge, and the first unknown that depends on
  /// those before it; 0 and -1 where nothing had to.
  double jitter = 0;
  std::int64_t dependent = -1;
  double error = 0;  // |Y - X W|^2 / |Y|^2 over the tokens that were added; 0 for Y = 0
};

/// Sums over tokens of X^T X and X^T Y in f64, from exact products, and what they say about
/// Y ~ X W. Memory: 4 unknowns^2 + 8 unknowns * outputs bytes, solving twice that.
class NormalEquations {
 public:
  NormalEquations(std::int64_t unknowns, std::int64_t outputs);

  /// More tokens. x: f32 [rows, unknowns]; y: f32 [rows, outputs]. Throws InputError naming the row
  /// of a NaN or an infinity.
  void add(const Tensor& x, const Tensor& y);
  /// The same with x in blocks of columns that are zero outside of their rows.
  void add(std::span<const ColumnBlock> x, const Tensor& y);
  /// Every rank's sums become those of all ranks. Collective, once, after the last add().
  void add_ranks(Communicator& world);

  std::int64_t rows() const { return rows_; }

  /// argmin over W of |Y - X W|^2 + s |W - prior|^2 with s = ridge * mean diagonal of X^T X (the
  /// jitter belongs to s, too), so the error is never above the prior's. prior: f32
  /// [unknowns, outputs]; undefined: zeros. Columns of X that depend on others, or are zero, are
  /// no error. With a `world` its ranks, which all call this after add_ranks(), share the outputs.
  Solution solve(double ridge, const Tensor& prior = {}, Communicator* world = nullptr) const;

 private:
  LowerMatrix gram_;
  Tensor moments_;              // f64 [unknowns, outputs]
  double squared_targets_ = 0;  // |Y|^2
  std::int64_t rows_ = 0;
};

}  // namespace moe
