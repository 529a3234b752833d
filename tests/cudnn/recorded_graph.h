// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "kernels/cuda/tensor_graph.h"

/// A program that links recorded_graph.cpp has calls of its own in place of those by which cuDNN is
/// told what to compute and where. They hand on and write down what cuDNN is told; executing a plan
/// computes what it was told, on the memory that it was given (graph_interpreter.h).
namespace moe::test {

/// What was executed, in order, rebuilt from what cuDNN was told.
std::vector<TensorGraph>& executed_graphs();

}  // namespace moe::test
