// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "core/error.h"

namespace moe {

/// Layouts of a Hugging Face model folder.
enum class ModelFormat : std::uint8_t {
  llama,         // dense
  llama_moe,     // LLaMA-MoE v1; with shared experts its llama_moe_residual
  mixtral,       // transformers' own Mixtral
  llama_moe_v2,  // Mixtral as LLaMA-MoE v2 extends it: score scale, shared expert, dense ends
  native,        // our own names and layout: whatever a ModelConfig can say
};

inline constexpr std::array kModelFormats = {ModelFormat::llama, ModelFormat::llama_moe,
                                             ModelFormat::mixtral, ModelFormat::llama_moe_v2,
                                             ModelFormat::native};

/// As command lines spell it.
inline constexpr const char* name(ModelFormat format) {
  switch (format) {
    case ModelFormat::llama:
      return "llama";
    case ModelFormat::llama_moe:
      return "llama-moe";
    case ModelFormat::mixtral:
      return "mixtral";
    case ModelFormat::llama_moe_v2:
      return "llama-moe-v2";
    case ModelFormat::native:
      return "native";
  }
  return "?";
}

/// Throws InputError for other words.
inline ModelFormat model_format_named(std::string_view text) {
  for (const ModelFormat f : kModelFormats)
    if (text == name(f)) return f;
  throw InputError(str("unknown model format '", text,
                       "': use llama, llama-moe, llama-moe-v2, mixtral or native"));
}

}  // namespace moe
