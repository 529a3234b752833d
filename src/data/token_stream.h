// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "data/token_file.h"

namespace moe {

/// Sequences, ready for the model.
struct Batch {
  Tensor tokens;  // i32 [sequences, length], -1: padding
  Tensor labels;  // i32 [sequences, length], -1: not scored; labels[i] is the token after tokens[i]
  std::vector<std::int64_t> sequence_ids;
  std::vector<std::int32_t> domains;
  /// i32 [sequences, length]: ForwardContext::document_starts; undefined: no document masks.
  Tensor document_starts = {};
};

/// The tokens of several shards, one after the other.
class TokenStream {
 public:
  static constexpr std::size_t kCheckedAtStart = 256;

  /// Throws InputError naming the file: unreadable, with ids that a model of `vocabulary_size` has
  /// no embedding for, or made by another tokenizer than the shards before it. Of more than
  /// kCheckedAtStart shards only manifests are read here, the others' checksums when they are used.
  TokenStream(const std::vector<std::filesystem::path>& files, std::int64_t vocabulary_size);

  std::int64_t tokens() const { return begins_.back(); }
  std::int64_t documents() const;
  const std::vector<TokenFile>& files() const { return files_; }
  /// Where file f begins in the stream.
  std::int64_t begin_of(std::size_t f) const { return begins_[f]; }

  /// Copies tokens [first, first + out.size()).
  void read(std::int64_t first, std::span<std::int32_t> out) const;

  /// The parts of documents that tokens [first, first + count) are made of, in order:
  /// visit(first, count, whether the document ends with the part).
  void for_each_document_part(
      std::int64_t first, std::int64_t count,
      const std::function<void(std::int64_t, std::int64_t, bool)>& visit) const;

  /// How many of tokens [first, first + count) are learned.
  std::int64_t count_learned(std::int64_t first, std::int64_t count) const;
  /// Writes -1 over those of tokens [first, first + ids.size()) that are not learned.
  void keep_learned(std::int64_t first, std::span<std::int32_t> ids) const;

  /// Inputs and their labels: tokens[i] is token first + i of the stream, labels[i] the token after
  /// it where that one is learned, else -1. Without `last_label` the last input has no label.
  void read_inputs(std::int64_t first, bool last_label, std::span<std::int32_t> tokens,
                   std::span<std::int32_t> labels) const;

 private:
  std::size_t file_of(std::int64_t token) const;
  /// The files that tokens [first, first + count) lie in: visit(file, first within it, count).
  template <class Visit>
  void for_each_file(std::int64_t first, std::int64_t count, Visit&& visit) const;

  std::vector<TokenFile> files_;
  std::vector<std::int64_t> begins_;  // of each file; the last entry is the total
};

/// Throws InputError, naming both files, when they were made by different tokenizers. An unknown
/// tokenizer goes with every other.
void require_same_tokenizer(const TokenFile& a, const TokenFile& b);

}  // namespace moe
