// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace moe {

/// What a token shard says about its tokens.
struct TokenFileInfo {
  std::string domain = {};
  std::string tokenizer_hash = {};   // Tokenizer::hash(); empty: unknown
  std::int64_t vocabulary_size = 0;  // every id is below it
  std::int32_t bos_id = -1;          // put before every document; -1: nothing was
  std::int32_t eos_id = -1;          // put after every document; -1: nothing was
  /// Whether the shard says which tokens are learned, i.e. count as labels. Without, all are.
  bool masked = false;
  friend bool operator==(const TokenFileInfo&, const TokenFileInfo&) = default;
};

/// A token shard (docs/file_formats.md) open for reading. Tokens come from a memory map, outside
/// the lock around libhdf5, so that any number of threads may read at once.
class TokenFile {
 public:
  /// Throws InputError, naming the file and what to do, unless the manifest is there, the file has
  /// its size, and everything outside the token data has its checksum. Token data is not read:
  /// see verify().
  explicit TokenFile(const std::filesystem::path& path);
  /// The same, but now only the manifest and the file's size are looked at, and the rest when
  /// documents or tokens are first asked for, which then may throw. For runs over very many shards.
  /// (Shards whose manifest was written before it named the tokenizer are opened at once.)
  static TokenFile opened_when_used(const std::filesystem::path& path);
  ~TokenFile();
  TokenFile(TokenFile&&) noexcept;
  TokenFile& operator=(TokenFile&&) noexcept;

  const std::filesystem::path& path() const;
  const TokenFileInfo& info() const;
  std::int64_t tokens() const;
  std::int64_t documents() const;
  /// 2 or 4 bytes a token.
  int token_bytes() const;

  struct Range {
    std::int64_t first, count;
  };
  /// Where document i lies among the tokens, with its BOS and EOS. At least one token.
  Range document(std::int64_t i) const;
  /// The document that holds this token.
  std::int64_t document_at(std::int64_t token) const;

  /// Copies tokens [first, first + out.size()). Throws InputError at an id beyond the vocabulary.
  void read(std::int64_t first, std::span<std::int32_t> out) const;

  /// 1 for each of tokens [first, first + out.size()) that is learned, else 0. In a masked shard
  /// the first token of a document never is.
  void read_learned(std::int64_t first, std::span<std::uint8_t> out) const;
  /// How many of tokens [first, first + count) are learned.
  std::int64_t count_learned(std::int64_t first, std::int64_t count) const;
  /// Of all tokens. Reads none.
  std::int64_t learned_tokens() const;

  /// Reads all tokens, and which are learned: throws InputError where a block does not have its
  /// checksum or an id is beyond the vocabulary. `progress` hears how many tokens have been
  /// checked.
  void verify(const std::function<void(std::int64_t)>& progress = {}) const;

 private:
  struct Impl;
  explicit TokenFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe
