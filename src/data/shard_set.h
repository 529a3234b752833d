// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/token_file.h"

namespace moe {

/// Token shards that belong together, as one list of documents.
class ShardSet {
 public:
  /// `domain`: what the shards are taken as; empty: they must be of one domain. Throws InputError,
  /// naming file and reason, for shards that were made in different ways (tokenizer, vocabulary,
  /// BOS, EOS) and for those that TokenFile refuses. Of shards with and without a loss mask the
  /// set is masked.
  ShardSet(const std::vector<std::filesystem::path>& shards, const std::string& domain);

  const TokenFileInfo& info() const { return info_; }
  const std::vector<TokenFile>& files() const { return files_; }
  std::int64_t documents() const { return first_documents_.back(); }
  std::int64_t tokens() const;

  /// Shard and number within it of document i of all.
  struct Place {
    std::size_t file;
    std::int64_t document;
  };
  Place place(std::int64_t i) const;
  /// The ids of document i.
  void read(std::int64_t i, std::vector<std::int32_t>& ids) const;
  /// Which of them are learned; all, where the shard does not say.
  void read_learned(std::int64_t i, std::vector<std::uint8_t>& learned) const;
  /// Reads everything: throws InputError where a shard is damaged.
  void verify() const;

 private:
  std::vector<TokenFile> files_;
  std::vector<std::int64_t> first_documents_ = {0};  // of each file, and the number of all
  TokenFileInfo info_;
};

}  // namespace moe
