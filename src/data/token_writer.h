// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>

#include "data/token_file.h"

namespace moe {

/// Collects documents and writes them as token shards. How many there will be need not be known:
/// documents wait in unnamed files beside the shard, so memory is constant and nothing is left
/// behind by a run that dies.
class TokenWriter {
 public:
  /// `folder`: where the waiting documents lie; they take as much room as the shard will.
  TokenWriter(TokenFileInfo info, const std::filesystem::path& folder);
  ~TokenWriter();
  TokenWriter(const TokenWriter&) = delete;
  TokenWriter& operator=(const TokenWriter&) = delete;

  /// Throws InputError for an empty document or an id beyond the vocabulary.
  void append(std::span<const std::int32_t> document);

  std::int64_t documents() const;
  std::int64_t tokens() const;

  struct Written {
    std::int64_t documents, tokens;
  };
  /// Writes the documents for which keep(i) holds, in order, as the shard `path` and its manifest.
  /// Both appear under their names only when complete, the manifest last. Replaces an older shard.
  /// May be called again, for another selection. Throws InputError when nothing is kept, Error when
  /// the disk does not take it.
  Written write(const std::filesystem::path& path,
                const std::function<bool(std::int64_t)>& keep) const;
  Written write(const std::filesystem::path& path) const {
    return write(path, [](std::int64_t) { return true; });
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe
