// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "kernels/cuda/tensor_graph.h"

namespace moe::test {

/// How the arguments of a graph lie in memory: under their own types, or all as f64.
enum class ArgumentTypes { own, f64 };

/// Computes a graph by its definition, one element after the other, everything in f64. Reads and
/// writes its arguments where they lie. Throws Error where the graph makes no sense: a value that
/// is used before it is written or written twice, dimensions that do not fit.
void interpret(const TensorGraph& graph, std::span<void* const> arguments, ArgumentTypes types);

}  // namespace moe::test
