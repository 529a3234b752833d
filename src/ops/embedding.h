// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"

namespace moe::ops {

/// Rows of `table` ([vocabulary, hidden]) by token; zeros where it is negative (padding). tokens:
/// i32 of any shape, on the CPU. Throws Error when a token lies beyond the table.
Variable embedding(const Variable& table, const Tensor& tokens);

}  // namespace moe::ops
