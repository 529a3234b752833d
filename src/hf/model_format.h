// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "core/error.h"

namespace moe {

/// Layouts of a Hugging Face model folder. The value's name is config.json's `model_type`.
enum class ModelFormat : std::uint8_t { llama, llama_moe, mixtral };

/// As command lines spell it: "llama", "llama-moe", "mixtral".
inline constexpr const char* name(ModelFormat format) {
  switch (format) {
    case ModelFormat::llama:
      return "llama";
    case ModelFormat::llama_moe:
      return "llama-moe";
    case ModelFormat::mixtral:
      return "mixtral";
  }
  return "?";
}

/// Throws InputError for other words.
inline ModelFormat model_format_named(std::string_view text) {
  for (const ModelFormat f : {ModelFormat::llama, ModelFormat::llama_moe, ModelFormat::mixtral})
    if (text == name(f)) return f;
  throw InputError(str("unknown model format '", text, "': use llama, llama-moe or mixtral"));
}

}  // namespace moe
