// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "config/model_parameters.h"
#include "train/held_out_loss.h"

namespace moe {

/// The held-out loss of one set of weights under several configurations that differ in the number
/// of chosen experts and their scales, in their order. The weights are loaded once. Collective:
/// every rank holds the whole model and takes its share of the sequences.
std::vector<HeldOutLoss> losses_of(const std::vector<ModelConfig>& configs,
                                   const ParameterRows& rows, DType dtype, const HeldOut& data,
                                   std::int64_t micro_batch, Communicator& world);

/// The documents of shards, each begun with the model's BOS where it has one, longer ones cut.
HeldOut held_out_documents(const std::vector<std::filesystem::path>& shards,
                           const ModelConfig& model, std::int64_t length);

}  // namespace moe
