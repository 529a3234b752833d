// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
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
  /// Throws InputError naming the file: unreadable, with ids that a model of `vocabulary_size` has
  /// no embedding for, or made by another tokenizer than the shards before it.
  TokenStream(const std::vector<std::filesystem::path>& files, std::int64_t vocabulary_size);

  std::int64_t tokens() const { return begins_.back(); }
  const std::vector<TokenFile>& files() const { return files_; }
  /// Where file f begins in the stream.
  std::int64_t begin_of(std::size_t f) const { return begins_[f]; }

  /// Copies tokens [first, first + out.size()).
  void read(std::int64_t first, std::span<std::int32_t> out) const;

  /// Fills one row of a batch: `inputs` tokens from `first` on, the labels that follow them, then
  /// padding.
  void fill_row(std::int64_t first, std::int64_t inputs, std::span<std::int32_t> tokens,
                std::span<std::int32_t> labels) const;

 private:
  std::vector<TokenFile> files_;
  std::vector<std::int64_t> begins_;  // of each file; the last entry is the total
};

/// Throws InputError, naming both files, when they were made by different tokenizers. An unknown
/// tokenizer goes with every other.
void require_same_tokenizer(const TokenFile& a, const TokenFile& b);

}  // namespace moe
