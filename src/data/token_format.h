// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "data/token_file.h"

namespace moe {

/// What reader and writer of token shards agree on (docs/file_formats.md).
inline constexpr const char* kTokenFormatName = "moe-token-shard";
inline constexpr std::int64_t kTokenFormatVersion = 1;
/// Of shards that say which tokens are learned, so that older programs refuse them by name.
inline constexpr std::int64_t kMaskedFormatVersion = 2;
/// Tokens that one checksum covers.
inline constexpr std::int64_t kTokenBlock = 1 << 20;
/// The largest vocabulary whose ids are stored as u16.
inline constexpr std::int64_t kSmallVocabulary = 1 << 16;

inline int token_bytes_for(std::int64_t vocabulary_size) {
  return vocabulary_size <= kSmallVocabulary ? 2 : 4;
}

/// The manifest beside a shard: SHARD.h5.json.
struct TokenManifest {
  std::int64_t file_size = 0;
  std::int64_t token_offset = 0;  // byte offset of the token data
  std::int64_t tokens = 0;
  std::int64_t token_bytes = 0;
  std::int64_t documents = 0;
  std::int64_t vocabulary_size = 0;
  std::string domain;
  std::uint64_t metadata_checksum = 0;  // of all bytes outside the data of tokens and mask

  /// As TokenFileInfo has them; manifests of before there was this entry lack it.
  struct Tokenizer {
    std::string hash;
    std::int32_t bos_id = -1, eos_id = -1;
  };
  std::optional<Tokenizer> tokenizer;

  /// Which tokens are learned: u8 [tokens] from byte `offset` on, `tokens` of them 1.
  struct Learned {
    std::int64_t offset = 0, tokens = 0;
  };
  std::optional<Learned> learned = {};
};

inline std::filesystem::path manifest_path(const std::filesystem::path& shard) {
  return shard.string() + ".json";
}

std::string to_json(const TokenManifest& manifest);
/// Throws InputError naming the file.
TokenManifest read_manifest(const std::filesystem::path& shard);

/// metadata_checksum of a whole shard in memory.
std::uint64_t metadata_checksum(const std::byte* file, const TokenManifest& manifest);

}  // namespace moe
