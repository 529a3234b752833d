// SPDX-License-Identifier: Apache-2.0
#include "split/text_clusters.h"

#include <algorithm>
#include <numeric>

#include "split/importance.h"

namespace moe {
namespace {

/// The mean of each piece of text's rows of x, and which piece each row belongs to.
struct Documents {
  Tensor means;  // f32 [this rank's pieces, hidden]
  std::vector<std::int32_t> piece_of;
};

Documents document_means(const Tensor& x, const CalibrationText& text) {
  Documents d;
  std::int64_t pieces = 0, row = 0;
  for (const Batch& b : text.batches) pieces += b.tokens.rows();
  d.means = Tensor::zeros({pieces, x.cols()}, DType::f32);
  std::int32_t piece = 0;
  for (const Batch& b : text.batches)
    for (std::int64_t s = 0; s < b.tokens.rows(); ++s, ++piece) {
      float* mean = d.means.data<float>() + piece * x.cols();
      std::int64_t n = 0;
      for (std::int64_t t = 0; t < b.tokens.cols(); ++t) {
        if (b.tokens.data<std::int32_t>()[s * b.tokens.cols() + t] < 0) continue;
        const float* from = x.data<float>() + row++ * x.cols();
        for (std::int64_t i = 0; i < x.cols(); ++i) mean[i] += from[i];
        d.piece_of.push_back(piece);
        ++n;
      }
      for (std::int64_t i = 0; i < x.cols(); ++i) mean[i] /= float(std::max<std::int64_t>(n, 1));
    }
  return d;
}

/// Rows of this rank within what gather_ranks made of all ranks' rows.
std::int64_t rows_before(std::int64_t mine, Communicator& world) {
  Tensor counts = Tensor::zeros({world.size()}, DType::i64);
  counts.data<std::int64_t>()[world.rank()] = mine;
  world.all_reduce(counts, ReduceOp::sum).wait();
  return std::accumulate(counts.data<std::int64_t>(), counts.data<std::int64_t>() + world.rank(),
                         std::int64_t{0});
}

std::vector<std::int32_t> own_labels(const TokenClustering& all, std::int64_t mine,
                                     Communicator& world) {
  const std::int64_t first = rows_before(mine, world);
  return {all.labels.begin() + first, all.labels.begin() + first + mine};
}

}  // namespace

TextClusters::TextClusters(const SplitOptions& options, const ModelFolder& dense,
                           const CalibrationText& text, Communicator& world)
    : o_(options), dense_(dense), text_(text), world_(world) {}

const TokenClustering& TextClusters::of_inputs(std::int64_t layer, const Tensor& all_inputs) {
  const auto known = of_layer_.find(layer);
  if (known != of_layer_.end()) return known->second;
  return of_layer_
      .emplace(layer, cluster_tokens(all_inputs, o_.experts, o_.gate_metric, o_.gate_balanced,
                                     o_.seed, std::uint64_t(layer)))
      .first->second;
}

std::vector<std::int32_t> TextClusters::document_labels() {
  // Documents are known by the mean of what the last FFN is given.
  Documents documents;
  visit_layers(dense_, text_, [&](std::int64_t l, const DenseLayer&, const Tensor& own) {
    if (l + 1 == dense_.config().layers) documents = document_means(own, text_);
  });
  const TokenClustering found =
      cluster_tokens(gather_ranks(documents.means, world_), o_.experts, TokenMetric::cosine, false,
                     o_.seed, std::uint64_t(dense_.config().layers));
  const std::vector<std::int32_t> own = own_labels(found, documents.means.rows(), world_);
  std::vector<std::int32_t> by_token;
  for (const std::int32_t piece : documents.piece_of) by_token.push_back(own[std::size_t(piece)]);
  return by_token;
}

std::vector<Tensor> TextClusters::importance(CalibrationNeed need) {
  std::map<std::int64_t, std::vector<std::int32_t>> labels;
  if (need == CalibrationNeed::importance_by_input) {
    visit_layers(dense_, text_, [&](std::int64_t l, const DenseLayer&, const Tensor& own) {
      labels[l] = own_labels(of_inputs(l, gather_ranks(own, world_)), own.rows(), world_);
    });
  } else if (need == CalibrationNeed::importance_by_document) {
    const std::vector<std::int32_t> by_token = document_labels();
    for (std::int64_t l = 0; l < dense_.config().layers; ++l) labels[l] = by_token;
  } else {
    return {};
  }
  return importance_scores(
      dense_, text_,
      [&](std::int64_t l) -> const std::vector<std::int32_t>& { return labels.at(l); }, o_.experts,
      world_);
}

}  // namespace moe
