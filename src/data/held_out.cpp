// SPDX-License-Identifier: Apache-2.0
#include "data/held_out.h"

#include <algorithm>

#include "core/error.h"

namespace moe {

HeldOut HeldOut::windows(const std::vector<std::filesystem::path>& files, std::int64_t length,
                         std::int64_t vocabulary_size, bool document_masks) {
  HeldOut result(length);
  result.windows_.emplace(files, length, vocabulary_size,
                          PackingOptions{Packing::concatenate, document_masks});
  result.labels_ = result.windows_->labels();
  return result;
}

HeldOut HeldOut::documents(const std::vector<std::filesystem::path>& files, std::int64_t length,
                           std::int64_t vocabulary_size, std::optional<std::int32_t> bos) {
  MOE_REQUIRE(length > 0, "a sequence length of ", length);
  HeldOut result(length);
  const TokenStream& stream = result.stream_.emplace(files, vocabulary_size);
  MOE_REQUIRE(!bos || (*bos >= 0 && *bos < vocabulary_size), "BOS id ", *bos,
              " is beyond the model's vocabulary of ", vocabulary_size);
  result.bos_ = bos.value_or(-1);
  std::int64_t document = 0;
  for (std::size_t f = 0; f < stream.files().size(); ++f) {
    const TokenFile& file = stream.files()[f];
    for (std::int64_t d = 0; d < file.documents(); ++d, ++document) {
      const TokenFile::Range range = file.document(d);
      std::int32_t first_id = 0;
      file.read(range.first, {&first_id, 1});
      const bool add_bos = bos && first_id != *bos;
      // Ids with the added BOS as number 0; input i is scored against id i + 1.
      const std::int64_t inputs = range.count + (add_bos ? 1 : 0) - 1;
      const std::int64_t begin = stream.begin_of(f) + range.first - (add_bos ? 1 : 0);
      for (std::int64_t at = 0; at < inputs; at += length)
        result.pieces_.push_back({.document = document,
                                  .first = begin + at + (add_bos && at == 0 ? 1 : 0),
                                  .inputs = std::min(length, inputs - at),
                                  .bos = add_bos && at == 0});
      // An added BOS has the document's own first id for a label.
      const std::int64_t unscored = add_bos ? 0 : 1;
      result.labels_ += file.count_learned(range.first + unscored, range.count - unscored);
    }
  }
  MOE_REQUIRE(!result.pieces_.empty(), files.front().string(),
              ": no document has two tokens, nothing to score");
  return result;
}

std::int64_t HeldOut::sequences() const {
  return windows_ ? windows_->count() : std::int64_t(pieces_.size());
}

std::int64_t HeldOut::document_of(std::int64_t sequence) const {
  MOE_CHECK(!windows_, "windows are no documents");
  return pieces_.at(std::size_t(sequence)).document;
}

Batch HeldOut::load_windows(std::int64_t first, std::int64_t count) const {
  Batch batch = windows_->empty_batch(count);
  for (std::int64_t row = 0; row < count; ++row) {
    windows_->fill(first + row, batch, row);
    batch.sequence_ids.push_back(first + row);
    batch.domains.push_back(0);
  }
  return batch;
}

Batch HeldOut::load(std::int64_t first, std::int64_t count) const {
  MOE_CHECK(first >= 0 && count > 0 && first + count <= sequences(), "sequences [", first, ", ",
            first + count, ") of ", sequences());
  if (windows_) return load_windows(first, count);
  std::int64_t width = 0;
  for (std::int64_t i = first; i < first + count; ++i)
    width = std::max(width, pieces_[std::size_t(i)].inputs);
  Batch batch{Tensor::empty({count, width}, DType::i32),
              Tensor::empty({count, width}, DType::i32),
              {},
              std::vector<std::int32_t>(std::size_t(count), 0)};
  for (std::int64_t row = 0; row < count; ++row) {
    const Piece& p = pieces_[std::size_t(first + row)];
    std::span tokens(batch.tokens.data<std::int32_t>() + row * width, std::size_t(width));
    std::span labels(batch.labels.data<std::int32_t>() + row * width, std::size_t(width));
    if (p.bos) {
      tokens[0] = bos_;
      stream_->read(p.first, labels.first(1));
      stream_->keep_learned(p.first, labels.first(1));
      tokens = tokens.subspan(1);
      labels = labels.subspan(1);
    }
    const auto stored = std::size_t(p.inputs - (p.bos ? 1 : 0));
    if (stored > 0) stream_->read_inputs(p.first, true, tokens.first(stored), labels.first(stored));
    for (const std::span row_part : {tokens.subspan(stored), labels.subspan(stored)})
      std::fill(row_part.begin(), row_part.end(), -1);
    batch.sequence_ids.push_back(p.document);
  }
  return batch;
}

}  // namespace moe
