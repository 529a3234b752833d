// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor.h"

namespace moe {

/// A copy of x whose bytes lie in a file without a name in TMPDIR (or /tmp), for tensors of many
/// layers that wait to be written: the system may take their memory. The file goes with the last
/// copy. Throws Error when it cannot be made, for lack of room too.
Tensor spilled(const Tensor& x);

}  // namespace moe
