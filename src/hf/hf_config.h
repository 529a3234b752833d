// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "config/model_config.h"
#include "core/dtype.h"
#include "hf/model_format.h"

namespace moe {

struct HfConfig {
  ModelFormat format = ModelFormat::llama;
  ModelConfig config;
};

/// Reads the text of a config.json, of old and new transformers versions: `rope_scaling.type`,
/// `rope_scaling.rope_type` and `rope_parameters`; LLaMA-MoE v2's `scale_factor` in a mixtral
/// config becomes the score scale. Throws InputError, starting with `where` (the file) and naming
/// the field, for other model types and for everything that our models do not compute: biases,
/// other activations, rope types besides linear and llama3, quantised weights, gates without
/// softmax, ...
HfConfig parse_hf_config(std::string_view text, const std::string& where);

/// The config.json of a model; `dtype` is what its weights are stored in. llama_moe's is that of
/// LLaMA-MoE v1, whose own code needs its two Python files beside it.
std::string hf_config_json(const ModelConfig& config, ModelFormat format, DType dtype);

/// Throws InputError saying what to do when the format has no place for the model.
void require_representable(const ModelConfig& config, ModelFormat format);

}  // namespace moe
