// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "data/token_file.h"

namespace moe {

/// Collects documents and writes them as token shards. How many there will be need not be known:
/// documents wait in files beside the shard, so memory is constant.
class TokenWriter {
 public:
  /// Documents wait in files without names in `folder`, as large as the shard will be: nothing is
  /// left behind by a run that dies.
  TokenWriter(TokenFileInfo info, const std::filesystem::path& folder);

  struct Waiting {
    std::int64_t documents = 0, tokens = 0;
  };
  /// Documents wait in the files STEM.tokens, STEM.ends and STEM.learned, which stay. `waiting`:
  /// what an earlier writer's sync() gave; documents that it took later are dropped. Throws
  /// InputError when the files hold less.
  TokenWriter(TokenFileInfo info, const std::filesystem::path& stem, const Waiting& waiting);
  ~TokenWriter();
  TokenWriter(TokenWriter&&) noexcept;

  /// `learned`, for a masked shard: 1 for each token that is learned, else 0; the first token never
  /// is, whatever it says. Empty: all but the first are. Throws InputError for an empty document or
  /// an id beyond the vocabulary.
  void append(std::span<const std::int32_t> document, std::span<const std::uint8_t> learned = {});
  /// Waits until the disk has every document; what is to be given to the next writer.
  Waiting sync();

  std::int64_t documents() const;
  std::int64_t tokens() const;

  /// Documents [first, end), by number.
  struct Range {
    std::int64_t first, end;
  };
  Range all() const { return {0, documents()}; }
  /// Whether a document is stored; an empty function: all are.
  using Keep = std::function<bool(std::int64_t)>;

  /// Parts the documents in order: each range ends with the document by which the kept ones in it
  /// have `tokens` tokens; the last may have fewer.
  std::vector<Range> cut(std::int64_t tokens, const Keep& keep = {}) const;

  struct Written {
    std::int64_t documents = 0, tokens = 0;
    std::int64_t learned = 0;  // of a masked shard
  };
  /// Writes the documents of the range that are kept, in order, as the shard `path` and its
  /// manifest. Both appear under their names only when complete, the manifest last. Replaces an
  /// older shard. May be called again, for another selection. Throws InputError when nothing is
  /// kept, Error when the disk does not take it.
  Written write(const std::filesystem::path& path, const Range& range, const Keep& keep = {}) const;
  Written write(const std::filesystem::path& path, const Keep& keep = {}) const {
    return write(path, all(), keep);
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe
