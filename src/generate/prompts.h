// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace moe {

/// Prompts of a file, as ids: lines of text, each begun with `bos` where there is one; or, where
/// the name ends in .jsonl (.gz and .zst too), objects with "prompt", a text like that, or
/// "prompt_ids", ids exactly as given. Blank lines are passed over. `tokenizer` may be null where
/// all are ids. Throws InputError naming file and line.
std::vector<std::vector<std::int32_t>> read_prompts(const std::filesystem::path& file,
                                                    const Tokenizer* tokenizer,
                                                    std::optional<std::int32_t> bos,
                                                    std::int64_t vocabulary_size);

/// One prompt of text, BOS before it.
std::vector<std::int32_t> prompt_ids(const std::string& text, const Tokenizer& tokenizer,
                                     std::optional<std::int32_t> bos);

}  // namespace moe
