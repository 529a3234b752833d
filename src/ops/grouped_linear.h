// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/tape.h"

namespace moe::ops {

/// y_e = x_e w_e^T for the rows of every expert e: its own rows of w make its own columns. x:
/// T[rows, H], sorted by expert; w: T[E * n, H]; y: T[rows, n]. row_offsets: E + 1.
Variable grouped_up(const Variable& x, const Variable& w,
                    const std::vector<std::int64_t>& row_offsets);

/// y_e = x_e w_e: the way back. x: T[rows, n], sorted by expert; w: T[E * n, H]; y: T[rows, H].
Variable grouped_down(const Variable& x, const Variable& w,
                      const std::vector<std::int64_t>& row_offsets);

}  // namespace moe::ops
