// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "autograd/tape.h"

namespace moe::ops {

/// The (token, slot) pairs of a routing sorted by expert, stable: pairs of one expert stay in token
/// order. Padding has no row.
struct Permutation {
  std::vector<std::int64_t> counts;  // rows of each expert
  Tensor slot_to_row;                // i32[tokens, k], -1: no row
  Tensor row_to_slot;                // i32[rows]: token * k + slot
};

/// indices: i32[tokens, k], -1: none. order: i32[E], the experts as their rows follow each other;
/// undefined: ascending.
Permutation sort_by_expert(const Tensor& indices, std::int64_t experts, const Tensor& order = {});

/// A copy of x's row for every pair, in sorted order: [rows, hidden].
Variable dispatch(const Variable& x, const Permutation& permutation);

/// Each token's experts' rows back into one: y[t] = factor * sum_j weights[t,j] * row of (t, j), in
/// order of j. rows: [rows, hidden]; weights: acc[tokens, k].
Variable combine(const Variable& rows, const Variable& weights, const Permutation& permutation,
                 double factor);

}  // namespace moe::ops
