// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor.h"
#include "nn/forward_context.h"

namespace moe {

/// The scores [tokens, E] that experts are chosen by, with the hot expert above all others for its
/// share of the tokens: those at places t of their sequence of `length` where floor((t + 1) share)
/// exceeds floor(t share), so the same on every layout. Without the drill, `scores` itself.
Tensor with_hot_expert(const Tensor& scores, const HotExpert& hot, std::int64_t length);

}  // namespace moe
