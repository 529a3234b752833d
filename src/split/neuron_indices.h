// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>

#include "hf/dense.h"
#include "split/split_plan.h"

namespace moe {

/// The file of a split model's folder that says which dense neuron each expert neuron was:
/// safetensors, i32 tensors layers.N.experts.E and layers.N.shared.R, ids ascending.
inline constexpr const char* kNeuronIndices = "neuron_indices.safetensors";

void write_indices(const std::filesystem::path& file, const SplitPlan& plan);

/// The partitions of such a file by layer. Throws InputError naming the file and, where experts do
/// not divide the neurons of a layer exactly and the file does not say that they need not
/// (metadata coverage: any), the neuron.
std::map<std::int64_t, Partition> read_indices(const std::filesystem::path& file,
                                               std::int64_t layers, std::int64_t neurons);

/// The same as hf/dense.h wants it.
NeuronOrder neuron_order(const std::map<std::int64_t, Partition>& partitions, std::int64_t layers);

}  // namespace moe
