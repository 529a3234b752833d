// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "generate/sampler.h"
#include "nn/transformer.h"

namespace moe {

struct GenerateOptions : SamplingOptions {
  std::int64_t max_tokens = 128;   // new ones
  std::vector<std::int32_t> stop;  // ends after one of these (EOS)
  std::int64_t batch = 1;          // texts computed at once
  bool routing = false;            // keep which experts were chosen
};

/// The experts that were chosen for the tokens of one text, layer by layer; layers without experts
/// are left out.
struct TextRouting {
  struct Layer {
    std::int64_t layer = 0, top_k = 0;
    std::vector<std::int32_t> experts;  // [tokens, k]
    std::vector<double> weights;        // [tokens, k], without the score scale
  };
  std::vector<Layer> layers;
};

struct GeneratedText {
  std::vector<std::int32_t> ids;  // the new ones
  bool stopped = false;           // by a stop id or by the listener, not for want of room
  /// Of the prompt and of every new token but the last, which the model has not seen. Empty unless
  /// asked for.
  TextRouting routing;
};

/// Where the time went, over all texts.
struct GenerateTimes {
  std::int64_t prompt_tokens = 0, new_tokens = 0;  // computed in one pass; one by one
  double prompt_seconds = 0, new_seconds = 0;
};

/// Hears each new token: which prompt it continues, and its id. False: that text is to end here.
using TokenListener = std::function<bool(std::size_t prompt, std::int32_t id)>;

/// Continues every prompt token by token, `batch` texts at a time, each attending to its own cached
/// keys and values at its own positions; where one ends the next prompt takes its place. So a text
/// depends on its prompt, its number among the prompts (which seeds its draws) and the options,
/// not on the batch, but for the rounding of products with more rows. No prompt may be empty.
/// A text ends early at the model's largest position. Throws InputError naming the prompt.
std::vector<GeneratedText> generate_texts(const Transformer& model,
                                          const std::vector<std::vector<std::int32_t>>& prompts,
                                          const GenerateOptions& options,
                                          const TokenListener& listener = nullptr,
                                          GenerateTimes* times = nullptr);

/// One prompt: the new ids.
std::vector<std::int32_t> generate(const Transformer& model, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options);

}  // namespace moe
