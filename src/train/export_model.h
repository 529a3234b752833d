// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "config/model_config.h"
#include "config/model_parameters.h"
#include "hf/model_folder.h"

namespace moe {

/// Weights to be written as a model folder, and what they came with.
struct ExportSource {
  ModelConfig config;
  ParameterRows rows;
  DType dtype = DType::f32;                             // as stored, or as the run computed in
  std::optional<std::filesystem::path> tokenizer_from;  // folder
  std::optional<std::filesystem::path> indices;         // of the split that made it
  std::optional<std::int64_t> step;                     // of a checkpoint
};

/// `folder`: a model folder, a checkpoint or a run's folder. A checkpoint has the tokenizer of its
/// run's model.tokenizer, else of model.init_from, and the indices of init_from; where that is a
/// checkpoint in turn, the same is asked of it. Throws InputError.
ExportSource open_for_export(const std::filesystem::path& folder);

/// Throws InputError saying why when the format has no place for the model.
void require_exportable(const ModelConfig& config, ModelFormat format);

/// write_model of a source: as llama, a mixture becomes the dense model that it was split from, its
/// neurons in the order that the indices say; noise weights stay behind where the format has no
/// place for them. Whole or not at all. Throws as write_model does.
WrittenModel export_model(ExportSource source, const WriteOptions& options,
                          const std::filesystem::path& output);

}  // namespace moe
