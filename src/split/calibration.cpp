// SPDX-License-Identifier: Apache-2.0
#include "split/calibration.h"

#include <algorithm>
#include <cstring>

#include "core/rng.h"
#include "data/held_out.h"
#include "data/tokenizer.h"
#include "kernels/backend.h"
#include "ops/elementwise.h"
#include "ops/experts.h"

namespace moe {
namespace {

constexpr std::int64_t kBatchTokens = 4096;

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

}  // namespace

CalibrationText load_calibration(const CalibrationOptions& options, const ModelFolder& dense,
                                 std::uint64_t seed, Communicator& world) {
  const ModelConfig& model = dense.config();
  MOE_REQUIRE(options.length > 0, "calibration needs a positive length, got ", options.length);
  const std::int64_t length = std::min(options.length, model.max_positions);
  MOE_REQUIRE(options.tokens > 0, "calibration needs a positive number of tokens, got ",
              options.tokens);
  require_tokenizer(options.shards, dense.path());
  const std::optional<std::int32_t> bos =
      model.bos_token >= 0 ? std::optional(std::int32_t(model.bos_token)) : std::nullopt;
  const HeldOut documents = HeldOut::documents(options.shards, length, model.vocab_size, bos);
  const std::vector<std::int64_t> order =
      permutation(documents.sequences(), Philox(seed, RandomPurpose::split, {0x63616c}));

  CalibrationText text;
  std::vector<Batch> pending;
  std::int64_t width = 0;
  const auto flush = [&] {
    if (!pending.empty()) text.batches.push_back(stack(pending));
    pending.clear();
    width = 0;
  };
  for (std::size_t i = 0; i < order.size() && text.all_tokens < options.tokens; ++i) {
    Batch piece = documents.load(order[i], 1);
    const std::int64_t n = tokens_in(piece);
    text.all_tokens += n;
    text.all_labels += labels_in(piece);
    if (std::int64_t(i) % world.size() != world.rank()) continue;
    text.tokens += n;
    width = std::max(width, piece.tokens.cols());
    pending.push_back(std::move(piece));
    if (width * std::int64_t(pending.size()) >= kBatchTokens) flush();
  }
  flush();
  MOE_REQUIRE(!text.batches.empty(), "the calibration text has ", order.size(),
              " documents, fewer than there are ranks (", world.size(), ")");
  return text;
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

void visit_layers(const ModelFolder& dense, const CalibrationText& text, const LayerVisit& visit,
                  const LayerVisit& visit_attention) {
  const NoTape no_recording;
  std::vector<Tensor> x = embed(dense, text), inputs(x.size());
  for (std::int64_t l = 0; l < dense.config().layers; ++l) {
    const DenseLayer layer(dense, l);
    const auto constant = Variable::constant;
    if (visit_attention) {
      for (std::size_t b = 0; b < x.size(); ++b)
        inputs[b] = layer.attention_input(constant(x[b])).value;
      visit_attention(l, layer, without_padding(inputs, text));
    }
    for (std::size_t b = 0; b < x.size(); ++b) {
      const Tensor& ids = text.batches[b].tokens;
      const Variable middle = layer.after_attention(constant(x[b]), ids.rows(), ids.cols());
      inputs[b] = layer.ffn_input(middle).value;
      const Variable y =
          ops::expert_ffn(constant(inputs[b]), constant(layer.gate()), constant(layer.up()),
                          constant(layer.down()), {0, x[b].rows()}, {0, layer.gate().rows()});
      x[b] = ops::add(middle, y).value;
    }
    visit(l, layer, without_padding(inputs, text));
  }
}

}  // namespace moe
