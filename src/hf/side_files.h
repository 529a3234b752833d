// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "hf/model_folder.h"

namespace moe {

/// Throws InputError when a folder that WriteOptions names is none, or lacks the Python files that
/// it is named for.
void require_side_files(const ModelConfig& config, const WriteOptions& options);

/// Puts the tokenizer, generation_config.json and the format's Python files into a folder. Returns
/// what is still to be done before others can load it.
std::vector<std::string> write_side_files(const std::filesystem::path& folder,
                                          const ModelConfig& config, const WriteOptions& options);

}  // namespace moe
