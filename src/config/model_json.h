// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "config/model_config.h"

namespace moe {

/// The architecture as JSON text, and back; throws InputError, starting with `where`, for texts
/// that are no such thing.
std::string model_config_to_json(const ModelConfig& config);
ModelConfig model_config_from_json(const std::string& text, const std::string& where);

}  // namespace moe
