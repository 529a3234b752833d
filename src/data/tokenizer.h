// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

/// Text to token ids and back, by the file that came with the model: sentencepiece's (LLaMA-1 and
/// -2, Mistral, Mixtral), tiktoken's ranks of LLaMA-3, or a Hugging Face tokenizer.json of
/// byte-pair encoding. The content of the file says which. Safe from many threads.
class Tokenizer {
 public:
  /// `path`: a file, or a folder that holds a tokenizer.model or else a tokenizer.json. Throws
  /// InputError.
  static Tokenizer open(const std::filesystem::path& path);
  /// The file that open() would read in this folder; nothing where none is.
  static std::optional<std::filesystem::path> find(const std::filesystem::path& folder);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Without BOS and EOS. Empty text has no ids. Bytes that are not UTF-8 count as U+FFFD each.
  /// What special tokens are called is plain text here, so no text can smuggle one in:
  /// special_id().
  std::vector<std::int32_t> encode(std::string_view text) const;
  /// Special ids (BOS, EOS) leave nothing. Throws InputError at an id beyond the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;

  /// The largest id + 1.
  std::int64_t vocabulary_size() const;
  /// -1: the model has none.
  std::int32_t bos_id() const;
  std::int32_t eos_id() const;
  /// The id of the special token that is called `text` ("<|eot_id|>"), if there is one.
  std::optional<std::int32_t> special_id(std::string_view text) const;
  /// Checksum of the tokenizer's file, 16 hexadecimal digits. Two shards with the same hash were
  /// made by the same tokenizer.
  const std::string& hash() const;

 private:
  friend class StreamDecoder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Decodes ids as they come: the pieces of text put together are what decode() gives for all of
/// them, and no piece ends inside a UTF-8 character.
class StreamDecoder {
 public:
  /// The tokenizer must outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  /// The text that this id completes; often none, inside a character spelt in bytes.
  std::string push(std::int32_t id);
  /// What is left of an incomplete character at the end.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool at_start_ = true;
  std::string bytes_;  // of the character that is not complete yet
};

}  // namespace moe
