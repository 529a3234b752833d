// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "nn/transformer.h"

namespace moe {

struct GenerateOptions {
  std::int64_t max_tokens = 128;   // new ones
  double temperature = 0;          // 0: the most likely token each time, ties to the lowest id
  std::uint64_t seed = 42;         // of sampling
  std::vector<std::int32_t> stop;  // ends after one of these (EOS)
};

/// Continues `prompt` token by token, each step attending to cached keys and values. Returns the
/// new ids; `on_token` sees each as it comes. The prompt must not be empty. Stops early at the
/// model's largest position.
std::vector<std::int32_t> generate(const Transformer& model, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options,
                                   const std::function<void(std::int32_t)>& on_token = nullptr);

}  // namespace moe
