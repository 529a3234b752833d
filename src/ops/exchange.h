// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"
#include "comm/communicator.h"

namespace moe::ops {

/// Sends rows of x to the members of `group`: send_rows[p] to member p, recv_rows[p] arrive from
/// it. The gradient takes the same road back, counts swapped. `group` outlives backward.
Variable all_to_all(const Variable& x, std::vector<std::int64_t> send_rows,
                    std::vector<std::int64_t> recv_rows, Communicator& group);

/// The sum over the group's members; so is the gradient.
Variable all_reduce_sum(const Variable& x, Communicator& group);

}  // namespace moe::ops
