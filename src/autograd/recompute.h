// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "autograd/tape.h"

namespace moe {

/// Part of a model as a function of its inputs.
using Block = std::function<std::vector<Variable>(std::span<const Variable> inputs)>;

/// Runs `block` without recording it; backward runs it again, recorded, and goes through it then
/// (Chen et al. 2016). `parameters` names every leaf that the block uses besides its inputs, so
/// that their on_ready waits for the second run. Without an active tape this is block(inputs).
std::vector<Variable> recompute(const Block& block, std::span<const Variable> inputs,
                                std::span<const Variable> parameters);

/// The value of make(), decided once: the second run of a recomputed block gets the tensors of the
/// first, in order. Routing goes through this, so experts are never chosen twice.
Tensor decide_once(const std::function<Tensor()>& make);

/// True in the second run of a recomputed block: counters must not count again.
bool recomputing();

}  // namespace moe
