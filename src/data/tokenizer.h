// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

/// Text to token ids and back, by a sentencepiece model (LLaMA-1 and -2, Mistral, Mixtral, ...).
/// Safe from many threads.
class Tokenizer {
 public:
  /// `path`: a tokenizer.model, or a folder that holds one. Throws InputError.
  static Tokenizer open(const std::filesystem::path& path);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Without BOS and EOS. Empty text has no ids. Bytes that are not UTF-8 count as U+FFFD.
  std::vector<std::int32_t> encode(std::string_view text) const;
  /// Control ids (BOS, EOS) leave nothing. Throws InputError at an id beyond the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;

  std::int64_t vocabulary_size() const;
  /// -1: the model has none.
  std::int32_t bos_id() const;
  std::int32_t eos_id() const;
  /// Checksum of the model file, 16 hexadecimal digits. Two shards with the same hash were made by
  /// the same tokenizer.
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
  std::string flush_bytes();

  const Tokenizer* tokenizer_;
  bool at_start_ = true;
  std::vector<int> byte_ids_;  // of the character that is not complete yet
  std::size_t expected_ = 0;   // how many it needs
};

}  // namespace moe
