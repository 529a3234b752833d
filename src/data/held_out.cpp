// SPDX-License-Identifier: Apache-2.0
#include "data/held_out.h"

#include <algorithm>

#include "core/error.h"
#include "data/mixture.h"

namespace moe {

HeldOut::HeldOut(const std::vector<std::filesystem::path>& files, std::int64_t length,
                 std::int64_t vocabulary_size)
    : stream_(files, vocabulary_size), length_(length) {
  MOE_REQUIRE(length > 0, "a sequence length of ", length);
}

HeldOut HeldOut::windows(const std::vector<std::filesystem::path>& files, std::int64_t length,
                         std::int64_t vocabulary_size) {
  HeldOut result(files, length, vocabulary_size);
  MOE_REQUIRE(result.stream_.tokens() >= 2, files.front().string(),
              ": a single token, nothing to score");
  result.labels_ = result.stream_.tokens() - 1;
  return result;
}

HeldOut HeldOut::documents(const std::vector<std::filesystem::path>& files, std::int64_t length,
                           std::int64_t vocabulary_size, std::optional<std::int32_t> bos) {
  HeldOut result(files, length, vocabulary_size);
  MOE_REQUIRE(!bos || (*bos >= 0 && *bos < vocabulary_size), "BOS id ", *bos,
              " is beyond the model's vocabulary of ", vocabulary_size);
  result.per_document_ = true;
  result.bos_ = bos.value_or(-1);
  std::int64_t document = 0;
  for (std::size_t f = 0; f < result.stream_.files().size(); ++f) {
    const TokenFile& file = result.stream_.files()[f];
    for (std::int64_t d = 0; d < file.documents(); ++d, ++document) {
      const TokenFile::Range range = file.document(d);
      std::int32_t first_id = 0;
      file.read(range.first, {&first_id, 1});
      const bool add_bos = bos && first_id != *bos;
      // Ids with the added BOS as number 0; input i is scored against id i + 1.
      const std::int64_t inputs = range.count + (add_bos ? 1 : 0) - 1;
      const std::int64_t begin = result.stream_.begin_of(f) + range.first - (add_bos ? 1 : 0);
      for (std::int64_t at = 0; at < inputs; at += length)
        result.pieces_.push_back({.document = document,
                                  .first = begin + at + (add_bos && at == 0 ? 1 : 0),
                                  .inputs = std::min(length, inputs - at),
                                  .bos = add_bos && at == 0});
      result.labels_ += inputs;
    }
  }
  MOE_REQUIRE(!result.pieces_.empty(), files.front().string(),
              ": no document has two tokens, nothing to score");
  return result;
}

std::int64_t HeldOut::sequences() const {
  return per_document_ ? std::int64_t(pieces_.size())
                       : SequenceCut{stream_.tokens(), length_}.count();
}

HeldOut::Piece HeldOut::piece(std::int64_t i) const {
  if (per_document_) return pieces_[std::size_t(i)];
  return {i, i * length_, SequenceCut{stream_.tokens(), length_}.inputs(i), false};
}

Batch HeldOut::load(std::int64_t first, std::int64_t count) const {
  MOE_CHECK(first >= 0 && count > 0 && first + count <= sequences(), "sequences [", first, ", ",
            first + count, ") of ", sequences());
  std::int64_t width = per_document_ ? 0 : length_;
  if (per_document_)
    for (std::int64_t i = first; i < first + count; ++i) width = std::max(width, piece(i).inputs);
  Batch batch{Tensor::empty({count, width}, DType::i32),
              Tensor::empty({count, width}, DType::i32),
              {},
              std::vector<std::int32_t>(std::size_t(count), 0)};
  for (std::int64_t row = 0; row < count; ++row) {
    const Piece p = piece(first + row);
    std::span tokens(batch.tokens.data<std::int32_t>() + row * width, std::size_t(width));
    std::span labels(batch.labels.data<std::int32_t>() + row * width, std::size_t(width));
    if (p.bos) {
      tokens[0] = bos_;
      stream_.read(p.first, labels.first(1));
      tokens = tokens.subspan(1);
      labels = labels.subspan(1);
    }
    const std::int64_t stored = p.inputs - (p.bos ? 1 : 0);
    if (stored > 0) {
      stream_.fill_row(p.first, stored, tokens, labels);
    } else {
      std::fill(tokens.begin(), tokens.end(), -1);
      std::fill(labels.begin(), labels.end(), -1);
    }
    batch.sequence_ids.push_back(p.document);
  }
  return batch;
}

}  // namespace moe
