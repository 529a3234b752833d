// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"
#include "comm/communicator.h"

namespace moe::ops {

/// The sum over the group's members; so is the gradient.
Variable all_reduce_sum(const Variable& x, Communicator& group);

}  // namespace moe::ops
