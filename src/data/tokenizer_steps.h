// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/pretokenizer.h"
#include "data/text_normalizer.h"

namespace moe {

/// What a tokenizer.json does around its model.
struct TokenizerSteps {
  std::vector<TextNormalizer::Step> normalizer;
  /// What the pre-tokenizer does before it cuts.
  std::vector<TextNormalizer::Step> preparation;
  std::vector<Split> splits;
  /// The vocabulary is over bytes, each written as the character that GPT-2 chose for it.
  bool byte_level = false;
  /// Decoding replaces this in every token; has no value where nothing is.
  std::optional<TextNormalizer::Replace> decoded;
  bool drops_first_space = false;
  /// Tokens like <0x0A> are decoded as that byte.
  bool decodes_bytes = false;
};

/// From the three objects, each as JSON text. Throws InputError, beginning with `file` and the
/// object's name, at a component that is not supported.
TokenizerSteps read_tokenizer_steps(const std::string& normalizer, const std::string& pre_tokenizer,
                                    const std::string& decoder, const std::string& file);

}  // namespace moe
