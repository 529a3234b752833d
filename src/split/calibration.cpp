// SPDX-License-Identifier: Apache-2.0
#include "split/calibration.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "core/rng.h"
#include "data/checksum.h"
#include "data/held_out.h"
#include "data/tokenizer.h"
#include "split/text_stream.h"

namespace moe {
namespace {

constexpr std::int64_t kBatchTokens = 4096;
constexpr std::int64_t kTokensOfADocument = 16;  // that two of them do not share by chance

std::int64_t tokens_in(const Batch& batch) {
  const auto* ids = batch.tokens.data<std::int32_t>();
  return std::count_if(ids, ids + batch.tokens.size(), [](std::int32_t id) { return id >= 0; });
}

std::int64_t labels_in(const Batch& batch) {
  const auto* ids = batch.labels.data<std::int32_t>();
  return std::count_if(ids, ids + batch.labels.size(), [](std::int32_t id) { return id >= 0; });
}

/// Pieces side by side, each padded to the longest.
Batch stack(const std::vector<Batch>& pieces) {
  std::int64_t length = 0;
  for (const Batch& p : pieces) length = std::max(length, p.tokens.cols());
  const auto count = std::int64_t(pieces.size());
  Batch batch{Tensor::empty({count, length}, DType::i32),
              Tensor::empty({count, length}, DType::i32),
              {},
              {}};
  for (Tensor* t : {&batch.tokens, &batch.labels})
    std::fill_n(t->data<std::int32_t>(), t->size(), -1);
  for (std::int64_t s = 0; s < count; ++s) {
    const Batch& p = pieces[std::size_t(s)];
    std::copy_n(p.tokens.data<std::int32_t>(), p.tokens.cols(),
                batch.tokens.data<std::int32_t>() + s * length);
    std::copy_n(p.labels.data<std::int32_t>(), p.labels.cols(),
                batch.labels.data<std::int32_t>() + s * length);
    batch.sequence_ids.push_back(p.sequence_ids.front());
    batch.domains.push_back(p.domains.front());
  }
  return batch;
}

/// Shards and models that do not say which tokenizer they belong to go with every other.
void require_tokenizer(const std::vector<std::filesystem::path>& shards,
                       const std::filesystem::path& model) {
  const std::optional<std::filesystem::path> file = Tokenizer::find(model);
  if (!file) return;
  const std::string hash = Tokenizer::open(*file).hash();
  for (const std::filesystem::path& shard : shards) {
    const std::string of_shard = TokenFile(shard).info().tokenizer_hash;
    MOE_REQUIRE(of_shard.empty() || of_shard == hash, shard.string(),
                ": was made by another tokenizer (", of_shard, ") than ", file->string(), " (",
                hash, "): build it again with the model's");
  }
}

/// The documents of shards, one piece of each, as the model reads them.
HeldOut documents_of(const std::vector<std::filesystem::path>& shards,
                     const CalibrationOptions& options, const ModelConfig& model) {
  MOE_REQUIRE(options.length > 0, "calibration needs a positive length, got ", options.length);
  const std::optional<std::int32_t> bos =
      model.bos_token >= 0 ? std::optional(std::int32_t(model.bos_token)) : std::nullopt;
  return HeldOut::documents(shards, std::min(options.length, model.max_positions), model.vocab_size,
                            bos);
}

/// What a piece is known by; nothing for one so short that two may be equal by chance.
std::optional<std::uint64_t> hash_of(const Batch& piece) {
  if (tokens_in(piece) < kTokensOfADocument) return std::nullopt;
  return checksum(piece.tokens.bytes(), piece.tokens.nbytes());
}

/// Puts a text together, piece by piece, of which each rank keeps its own.
class Collector {
 public:
  explicit Collector(Communicator& world) : world_(world) {}

  void add(Batch piece) {
    const std::int64_t n = tokens_in(piece);
    text_.all_tokens += n;
    text_.all_labels += labels_in(piece);
    if (const auto hash = hash_of(piece)) text_.hashes.push_back(*hash);
    if (pieces_++ % world_.size() != world_.rank()) return;
    text_.tokens += n;
    width_ = std::max(width_, piece.tokens.cols());
    pending_.push_back(std::move(piece));
    if (width_ * std::int64_t(pending_.size()) >= kBatchTokens) flush();
  }

  std::int64_t all_tokens() const { return text_.all_tokens; }
  CalibrationText text() && {
    flush();
    return std::move(text_);
  }

 private:
  void flush() {
    if (!pending_.empty()) text_.batches.push_back(stack(pending_));
    pending_.clear();
    width_ = 0;
  }

  Communicator& world_;
  CalibrationText text_;
  std::int64_t pieces_ = 0, width_ = 0;
  std::vector<Batch> pending_;
};

}  // namespace

CalibrationText load_calibration(const CalibrationOptions& options, const ModelFolder& dense,
                                 std::uint64_t seed, Communicator& world) {
  return load_and_hold_back(options, dense, seed, 0, world).fit;
}

FitTexts load_and_hold_back(const CalibrationOptions& options, const ModelFolder& dense,
                            std::uint64_t seed, std::int64_t every, Communicator& world) {
  MOE_REQUIRE(options.tokens > 0, "calibration needs a positive number of tokens, got ",
              options.tokens);
  require_tokenizer(options.shards, dense.path());
  const HeldOut documents = documents_of(options.shards, options, dense.config());
  const std::vector<std::int64_t> order =
      permutation(documents.sequences(), Philox(seed, RandomPurpose::split, {0x63616c}));

  Collector fit(world), validation(world);
  for (std::size_t i = 0;
       i < order.size() && fit.all_tokens() + validation.all_tokens() < options.tokens; ++i) {
    const bool held_back = every > 0 && std::int64_t(i) % every == every - 1;
    (held_back ? validation : fit).add(documents.load(order[i], 1));
  }
  FitTexts texts{std::move(fit).text(), std::move(validation).text()};
  for (const CalibrationText* text : {&texts.fit, &texts.validation})
    MOE_REQUIRE(!text->batches.empty() || (text == &texts.validation && every == 0),
                "the calibration text has ", order.size(), " documents, too few for ", world.size(),
                every > 0 ? " ranks and some to hold back" : " ranks");
  return texts;
}

std::vector<std::uint64_t> document_hashes(const std::filesystem::path& shard,
                                           const CalibrationOptions& options,
                                           const ModelFolder& dense) {
  const HeldOut documents = documents_of({shard}, options, dense.config());
  std::vector<std::uint64_t> hashes;
  for (std::int64_t i = 0; i < documents.sequences(); ++i)
    if (const auto hash = hash_of(documents.load(i, 1))) hashes.push_back(*hash);
  return hashes;
}

void require_disjoint(const std::vector<std::uint64_t>& a, const std::string& name_a,
                      const std::vector<std::uint64_t>& b, const std::string& name_b) {
  const std::set<std::uint64_t> known(a.begin(), a.end());
  const auto shared =
      std::count_if(b.begin(), b.end(), [&](std::uint64_t h) { return known.contains(h); });
  MOE_REQUIRE(shared == 0, name_a, " and ", name_b, " share ", shared,
              " documents: what is fitted to a text says too much about it, so make shards of "
              "different documents");
}

Tensor without_padding(const std::vector<Tensor>& x, const CalibrationText& text) {
  const std::int64_t cols = x.at(0).cols();
  Tensor result = Tensor::empty({text.tokens, cols}, x[0].dtype());
  const std::size_t row_bytes = std::size_t(cols) * size_of(x[0].dtype());
  std::byte* to = result.bytes();
  for (std::size_t b = 0; b < x.size(); ++b) {
    const auto* ids = text.batches[b].tokens.data<std::int32_t>();
    for (std::int64_t t = 0; t < x[b].rows(); ++t) {
      if (ids[t] < 0) continue;
      std::memcpy(to, x[b].bytes() + std::size_t(t) * row_bytes, row_bytes);
      to += row_bytes;
    }
  }
  return result;
}

Tensor gather_ranks(const Tensor& x, Communicator& world) {
  if (world.size() == 1) return x;
  Tensor counts = Tensor::zeros({world.size()}, DType::i64);
  counts.data<std::int64_t>()[world.rank()] = x.rows();
  world.all_reduce(counts, ReduceOp::sum).wait();
  const auto* n = counts.data<std::int64_t>();
  Shape shape = x.shape();
  shape[0] = std::accumulate(n, n + world.size(), std::int64_t{0});
  const Tensor all = Tensor::empty(shape, x.dtype());
  std::int64_t first = 0;
  for (int r = 0; r < world.size(); first += n[r], ++r) {
    const Tensor part = all.slice(first, n[r]);
    if (r == world.rank()) part.copy_from(x);
    world.broadcast(part, r).wait();
  }
  return all;
}

std::vector<Tensor> embed(const ModelFolder& dense, const CalibrationText& text) {
  std::vector<Tensor> x;
  for (const Batch& batch : text.batches) {
    const std::int64_t tokens = batch.tokens.size();
    x.push_back(Tensor::zeros({tokens, dense.config().hidden_size}, DType::f32));
    for (std::int64_t t = 0; t < tokens; ++t)
      if (const std::int32_t id = batch.tokens.data<std::int32_t>()[t]; id >= 0)
        x.back().slice(t, 1).copy_from(dense.read("embed.weight", id, 1, DType::f32));
  }
  return x;
}

void visit_layers(const ModelFolder& dense, const CalibrationText& text, const LayerVisit& visit) {
  TextStream stream(dense, text);
  for (std::int64_t l = 0; l < dense.config().layers; ++l) {
    const DenseLayer layer(dense, l);
    stream.attend(layer);
    visit(l, layer, stream.ffn_input(layer));
    stream.add_dense_ffn(layer);
  }
}

}  // namespace moe
