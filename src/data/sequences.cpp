// SPDX-License-Identifier: Apache-2.0
#include "data/sequences.h"

#include <algorithm>

#include "core/error.h"

namespace moe {

Sequences::Sequences(const std::vector<std::filesystem::path>& files, std::int64_t length,
                     std::int64_t vocabulary_size, const PackingOptions& options)
    : stream_(files, vocabulary_size), length_(length), options_(options) {
  MOE_REQUIRE(length > 0, "a sequence length of ", length);
  if (options.packing == Packing::best_fit) pack();
  count_labels();
  MOE_REQUIRE(labels_ > 0, files.front().string(),
              ": nothing to score: no token that is learned follows another in a document");
}

void Sequences::count_labels() {
  const bool alone = options_.packing == Packing::best_fit || options_.document_masks;
  for (std::size_t f = 0; f < stream_.files().size(); ++f) {
    const TokenFile& file = stream_.files()[f];
    // The first token of a document is no label where documents are alone, nor in a masked shard.
    const std::int64_t firsts = file.info().masked ? 0 : alone ? file.documents() : f == 0;
    labels_ += file.learned_tokens() - firsts;
  }
}

void Sequences::pack() {
  for (std::size_t f = 0; f < stream_.files().size(); ++f) {
    const TokenFile& file = stream_.files()[f];
    for (std::int64_t d = 0; d < file.documents(); ++d) {
      const TokenFile::Range document = file.document(d);
      const std::int64_t inputs = document.count - 1;
      for (std::int64_t at = 0; at < inputs; at += length_) {
        firsts_.push_back(stream_.begin_of(f) + document.first + at);
        sizes_.push_back(std::int32_t(std::min(length_, inputs - at)));
      }
    }
  }
  bins_ = best_fit(sizes_, std::int32_t(length_));
}

std::int64_t Sequences::count() const {
  return options_.packing == Packing::best_fit ? bins_.count()
                                               : SequenceCut{stream_.tokens(), length_}.count();
}

template <class Visit>
void Sequences::for_each_piece(std::int64_t i, Visit&& visit) const {
  MOE_CHECK(i >= 0 && i < count(), "sequence ", i, " of ", count());
  if (options_.packing == Packing::best_fit) {
    for (const std::int64_t p : bins_.bin(i))
      visit(Piece{firsts_[std::size_t(p)], sizes_[std::size_t(p)], true});
    return;
  }
  const std::int64_t first = i * length_;
  const std::int64_t inputs = SequenceCut{stream_.tokens(), length_}.inputs(i);
  if (!options_.document_masks) return visit(Piece{first, inputs, true});
  stream_.for_each_document_part(first, inputs,
                                 [&](std::int64_t from, std::int64_t count, bool ends) {
                                   visit(Piece{from, count, !ends});
                                 });
}

Sequences::Size Sequences::size(std::int64_t i) const {
  Size size{0, 0};
  for_each_piece(i, [&](const Piece& piece) {
    size.tokens += piece.inputs;
    size.labels +=
        stream_.count_learned(piece.first + 1, piece.inputs - (piece.last_label ? 0 : 1));
  });
  return size;
}

Batch Sequences::empty_batch(std::int64_t count) const {
  const auto tensor = [&] { return Tensor::empty({count, length_}, DType::i32); };
  return {tensor(), tensor(), {}, {}, options_.document_masks ? tensor() : Tensor()};
}

void Sequences::fill(std::int64_t i, Batch& batch, std::int64_t row) const {
  const auto row_of = [&](const Tensor& t) {
    return std::span(t.data<std::int32_t>() + row * length_, std::size_t(length_));
  };
  const std::span tokens = row_of(batch.tokens), labels = row_of(batch.labels);
  std::size_t at = 0;
  const auto mark_start = [&](std::size_t from, std::size_t count) {
    if (!batch.document_starts.defined()) return;
    const std::span starts = row_of(batch.document_starts).subspan(from, count);
    std::fill(starts.begin(), starts.end(), std::int32_t(from));
  };
  for_each_piece(i, [&](const Piece& piece) {
    const auto n = std::size_t(piece.inputs);
    stream_.read_inputs(piece.first, piece.last_label, tokens.subspan(at, n),
                        labels.subspan(at, n));
    mark_start(at, n);
    at += n;
  });
  std::fill(tokens.begin() + std::ptrdiff_t(at), tokens.end(), -1);
  std::fill(labels.begin() + std::ptrdiff_t(at), labels.end(), -1);
  mark_start(at, std::size_t(length_) - at);
}

}  // namespace moe
