// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "config/model_config.h"
#include "core/dtype.h"
#include "hf/model_format.h"

namespace moe {

struct HfConfig {
  ModelFormat format = ModelFormat::llama;
  ModelConfig config;
};

/// Neurons of experts of these sizes.
inline std::int64_t total_neurons(const std::vector<std::int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
}

/// Reads the text of a config.json, of old and new transformers versions: `rope_scaling.type`,
/// `rope_scaling.rope_type` and `rope_parameters`. A mixtral config with fields of LLaMA-MoE v2 has
/// that format; its dense layers are taken to be as wide as all experts together. Throws
/// InputError, starting with `where` (the file) and naming the field, for other model types and for
/// everything that our models do not compute: biases, other activations, rope types besides linear
/// and llama3, quantised weights, gates without softmax, ... A config that LLaMA-MoE v2's own code
/// cannot run (use_attn_moe without attn_experts or scale_factor_attn) is refused, too.
HfConfig parse_hf_config(std::string_view text, const std::string& where);

/// The config.json of a model that the format can represent; `dtype` is what its weights are stored
/// in. llama_moe's and llama_moe_v2's name the Python files that transformers needs beside them.
std::string hf_config_json(const ModelConfig& config, ModelFormat format, DType dtype);

/// Throws InputError saying why, and what to use instead, when the format has no place for the
/// model.
void require_representable(const ModelConfig& config, ModelFormat format);

/// A representable model in the terms of the format, which are those it will be read back in.
/// LLaMA-MoE v1 weighs shared experts by a gate's softmax: without a gate they get one of zeros and
/// the scale R that cancels the softmax's 1 / R. v2 has one shared expert: several become one, for
/// a sum of SwiGLUs is one SwiGLU.
ModelConfig expressed_in(const ModelConfig& config, ModelFormat format);

}  // namespace moe
