// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "data/sequences.h"

namespace moe {

/// Token shards in order, for measuring a loss: every label is scored exactly once. Safe from many
/// threads.
class HeldOut {
 public:
  /// Windows of `length` inputs over the shards' tokens, as training that concatenates would read
  /// them (data/sequences.h), in order. Every token but the very first is a label or, with document
  /// masks, every token but each document's first. Only the last window is padded.
  static HeldOut windows(const std::vector<std::filesystem::path>& files, std::int64_t length,
                         std::int64_t vocabulary_size, bool document_masks = false);

  /// Each document alone: every id after its first is a label. A document of more than `length`
  /// inputs is cut into pieces of `length` inputs, so ids after a cut are scored with less before
  /// them, but once. With `bos`, it is put before documents that do not begin with it, so that
  /// their first id is scored too. A document of a single id gives nothing.
  static HeldOut documents(const std::vector<std::filesystem::path>& files, std::int64_t length,
                           std::int64_t vocabulary_size,
                           std::optional<std::int32_t> bos = std::nullopt);

  std::int64_t sequences() const;
  /// The document that a sequence is, or is a piece of: its number over all shards. Of documents
  /// only.
  std::int64_t document_of(std::int64_t sequence) const;
  /// Labels of all sequences.
  std::int64_t labels() const { return labels_; }

  /// Sequences [first, first + count). Rows are `length` wide; those of documents only as wide as
  /// the longest of the batch. The sequence id is the number of the sequence, or of the document it
  /// is a piece of; the domain is 0.
  Batch load(std::int64_t first, std::int64_t count) const;

 private:
  struct Piece {
    std::int64_t document;
    std::int64_t first;   // in the stream; with `bos`, the token after it
    std::int64_t inputs;  // with `bos`, counting it
    bool bos;
  };

  explicit HeldOut(std::int64_t length) : length_(length) {}
  Batch load_windows(std::int64_t first, std::int64_t count) const;

  std::optional<Sequences> windows_;
  std::optional<TokenStream> stream_;  // of documents
  std::int64_t length_;
  std::int32_t bos_ = -1;
  std::vector<Piece> pieces_;  // of documents
  std::int64_t labels_ = 0;
};

}  // namespace moe
