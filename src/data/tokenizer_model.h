// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/utf8.h"

namespace moe {

/// Text to ids. Safe from many threads.
class TextEncoder {
 public:
  virtual ~TextEncoder() = default;
  /// Appends the ids of `text`, which is not empty and need not be UTF-8.
  virtual void encode(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
};

/// What an id stands for when it is decoded.
struct Token {
  enum class Kind : std::uint8_t {
    special,   // nothing; ends a character that is not complete
    text,      // `text`
    verbatim,  // `text`; also at the beginning, where a `text` may lose a space
  };
  Kind kind = Kind::special;
  std::string text;
};

/// What a tokenizer file was read into.
struct TokenizerModel {
  std::unique_ptr<const TextEncoder> encoder;
  std::vector<Token> tokens;  // by id
  std::unordered_map<std::string, std::int32_t> special_ids;
  std::int32_t bos_id = -1;
  std::int32_t eos_id = -1;
  /// A space at the beginning of the decoded text is the tokenizer's own and left out.
  bool drops_first_space = false;
  /// How bytes that make no character are decoded.
  Replace replace = Replace::each_beginning;
};

/// Readers of the content of `file`, which only messages and neighbours' names need. Throw
/// InputError.
TokenizerModel read_sentencepiece(const std::filesystem::path& file, const std::string& content);
TokenizerModel read_tiktoken(const std::filesystem::path& file, std::string_view content);
TokenizerModel read_tokenizer_json(const std::filesystem::path& file, const std::string& content);

}  // namespace moe
