// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "config/data_options.h"
#include "data/best_fit.h"
#include "data/token_stream.h"

namespace moe {

/// A stream of `tokens` tokens cut into sequences of `length` inputs, whose labels are the tokens
/// that follow. Sequence i takes inputs [i*length, i*length + inputs(i)); only the last is short.
/// The stream's last token is a label and never an input, so every input has a label.
struct SequenceCut {
  std::int64_t tokens, length;

  std::int64_t count() const { return (tokens - 1 + length - 1) / length; }
  std::int64_t inputs(std::int64_t i) const {
    return i + 1 < count() ? length : tokens - 1 - i * length;
  }
};

/// The documents of a domain laid into sequences of `length` inputs. A label is the token that
/// follows its input in the shard, whatever the packing. No token is dropped and none comes twice:
///
/// - concatenate: SequenceCut over the stream. With document masks the last token of a document is
///   an input without a label; without them its label is the first token of the next document.
/// - best_fit: every token but the last of a document is an input, with a label. A document of more
///   than `length` inputs is cut into pieces of `length`; the rest of it, like a shorter document,
///   lies whole in some sequence. What a sequence has no piece for is padding at its end. Keeps 20
///   bytes for each document in memory.
///
/// In shards that say which tokens are learned the others are no labels, only inputs. A sequence
/// may then be without any.
///
/// Safe from many threads.
class Sequences {
 public:
  /// Throws InputError naming the file, or when there is nothing to learn: no two tokens that
  /// follow one another.
  Sequences(const std::vector<std::filesystem::path>& files, std::int64_t length,
            std::int64_t vocabulary_size, const PackingOptions& options = {});

  std::int64_t count() const;
  /// Labels of all sequences together.
  std::int64_t labels() const { return labels_; }

  struct Size {
    std::int64_t tokens, labels;  // that are not padding; that are scored
  };
  /// Of sequence i. Reads no tokens, only which of them are learned.
  Size size(std::int64_t i) const;

  /// Writes sequence i into row `row` of the batch. The rest of the row is padding.
  void fill(std::int64_t i, Batch& batch, std::int64_t row) const;

  /// A batch of `count` rows to be filled.
  Batch empty_batch(std::int64_t count) const;

  const TokenStream& stream() const { return stream_; }
  std::int64_t length() const { return length_; }

 private:
  /// A run of tokens of the stream within a sequence.
  struct Piece {
    std::int64_t first, inputs;
    bool last_label;  // whether the last input has a label
  };
  template <class Visit>
  void for_each_piece(std::int64_t i, Visit&& visit) const;
  void count_labels();
  void pack();

  TokenStream stream_;
  std::int64_t length_;
  PackingOptions options_;
  std::int64_t labels_ = 0;
  // best_fit: piece p is sizes_[p] inputs from firsts_[p] on.
  std::vector<std::int64_t> firsts_;
  std::vector<std::int32_t> sizes_;
  Bins bins_;
};

}  // namespace moe
