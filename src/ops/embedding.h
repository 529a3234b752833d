// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"

namespace moe::ops {

/// Rows of `table` ([vocabulary, hidden]) by id; zeros where an id is negative (padding). ids: i32
/// of any shape. Throws Error when an id lies beyond the table.
Variable embedding(const Variable& table, const Tensor& ids);

}  // namespace moe::ops
