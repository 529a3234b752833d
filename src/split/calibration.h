// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/token_stream.h"
#include "split/dense_layer.h"

namespace moe {

struct CalibrationOptions {
  std::vector<std::filesystem::path> shards;  // made by moe-data; empty: no calibration
  std::int64_t tokens = 32768;                // at most, over all ranks
  std::int64_t length = 512;  // longer documents are cut (and at the model's positions)
};

/// This rank's part of the calibration text: pieces of documents in micro-batches, padded to the
/// longest piece of each.
struct CalibrationText {
  std::vector<Batch> batches;
  std::int64_t tokens = 0;      // that are not padding, on this rank
  std::int64_t all_tokens = 0;  // over all ranks
  std::int64_t all_labels = 0;
  /// Hashes of the token ids of all ranks' pieces but very short ones: texts that share one share a
  /// document.
  std::vector<std::uint64_t> hashes;
};

/// A seeded choice of documents, dealt out to the ranks; each begins with BOS where the model has
/// one. Throws InputError naming the shard: unreadable, ids beyond the vocabulary, or made by
/// another tokenizer than the tokenizer.model that lies beside the model.
CalibrationText load_calibration(const CalibrationOptions& options, const ModelFolder& dense,
                                 std::uint64_t seed, Communicator& world);

/// The same in two texts, of which the second, every `every`-th document, is for deciding between
/// what was fitted to the first.
struct FitTexts {
  CalibrationText fit, validation;
};
FitTexts load_and_hold_back(const CalibrationOptions& options, const ModelFolder& dense,
                            std::uint64_t seed, std::int64_t every, Communicator& world);

/// CalibrationText::hashes of everything in a shard, cut as `options` say.
std::vector<std::uint64_t> document_hashes(const std::filesystem::path& shard,
                                           const CalibrationOptions& options,
                                           const ModelFolder& dense);

/// Throws InputError when two texts, by their hashes, share documents; the names are theirs.
void require_disjoint(const std::vector<std::uint64_t>& a, const std::string& name_a,
                      const std::vector<std::uint64_t>& b, const std::string& name_b);

/// Rows of x whose token is no padding, batch by batch: [tokens, cols of x].
Tensor without_padding(const std::vector<Tensor>& x, const CalibrationText& text);

/// All ranks' rows of x, one rank after the other, on every rank.
Tensor gather_ranks(const Tensor& x, Communicator& world);

/// The embeddings of the text: f32 [sequences * length, hidden] of each batch.
std::vector<Tensor> embed(const ModelFolder& dense, const CalibrationText& text);

/// Hears of every layer in turn: what its FFN is given, [this rank's tokens, hidden].
using LayerVisit =
    std::function<void(std::int64_t index, const DenseLayer& layer, const Tensor& inputs)>;

/// Runs the dense model over the text with one layer's weights in memory at a time.
void visit_layers(const ModelFolder& dense, const CalibrationText& text, const LayerVisit& visit);

}  // namespace moe
