// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace moe::testing {

/// Converts a llama2.c model (.bin: seven int32, then f32 weights) to a Hugging Face llama folder
/// in f32. llama2.c rotates interleaved pairs, Hugging Face rotates halves, so rows of q and k are
/// permuted within each head. `folder` is replaced when it exists.
void convert_llama2c(const std::filesystem::path& bin, const std::filesystem::path& folder);

}  // namespace moe::testing
