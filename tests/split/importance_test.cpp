// SPDX-License-Identifier: Apache-2.0
#include "split/importance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "nn/transformer.h"
#include "split/calibration_support.h"

namespace moe {
namespace {

using test::TestFolder;

/// The whole dense model in f64, for central differences.
class Oracle {
 public:
  explicit Oracle(const ModelConfig& config)
      : config_(config), world_(single_rank()), grid_(*world_, 1), store_(config, DType::f64) {
    store_.load(initial_weights(config, 11));
  }

  /// h_n dL/dh_n summed over the tokens of one sequence: how the loss of `tokens` answers to a
  /// factor on neuron n's row of the down projection.
  double answer(std::int64_t layer, std::int64_t neuron, const Tensor& tokens, const Tensor& labels,
                double inverse_labels) const {
    const Tensor& down = store_[str("layers.", layer, ".ffn.down.weight")].value;
    double* row = down.data<double>() + neuron * config_.hidden_size;
    const std::vector<double> saved(row, row + config_.hidden_size);
    const auto loss_at = [&](double factor) {
      for (std::int64_t i = 0; i < config_.hidden_size; ++i)
        row[i] = factor * saved[std::size_t(i)];
      return Transformer(config_, store_, grid_)
          .loss(tokens, labels, inverse_labels, {})
          .total.value.data<double>()[0];
    };
    const double step = 1e-4, slope = (loss_at(1 + step) - loss_at(1 - step)) / (2 * step);
    std::copy(saved.begin(), saved.end(), row);
    return slope;
  }

 private:
  ModelConfig config_;
  std::unique_ptr<Communicator> world_;
  ProcessGrid grid_;
  ParameterStore store_;
};

Tensor one_label(const Tensor& labels, std::int64_t at) {
  Tensor only = labels.clone();
  for (std::int64_t i = 0; i < only.size(); ++i)
    if (i != at) only.data<std::int32_t>()[i] = -1;
  return only;
}

struct Scored {
  CalibrationText text;
  std::vector<Tensor> scores;
};

/// Every token is a cluster of its own, so scores are single terms |h dL/dh|.
Scored score_each_token(const TestFolder& folder, const ModelConfig& config,
                        const std::vector<std::int64_t>& lengths, std::int64_t boundary_bytes) {
  const auto world = single_rank();
  const ModelFolder dense(write_dense(folder, config));
  CalibrationOptions options;
  options.shards = {write_shard(folder, config, lengths)};
  options.length = 16;
  Scored s{load_calibration(options, dense, 5, *world), {}};
  std::vector<std::int32_t> cluster(std::size_t(s.text.tokens));
  for (std::size_t t = 0; t < cluster.size(); ++t) cluster[t] = std::int32_t(t);
  s.scores = importance_scores(
      dense, s.text, [&](std::int64_t) -> const std::vector<std::int32_t>& { return cluster; },
      s.text.tokens, *world, boundary_bytes);
  return s;
}

// In the last layer a token's FFN reaches its own logits alone, so with one label kept the answer
// to a factor on a neuron is that token's own term.
TEST(Importance, OfTheLastLayerIsEachTokensOwnTerm) {
  const TestFolder folder;
  const ModelConfig config = test::small_dense();
  const Scored s = score_each_token(folder, config, {5, 3, 6}, 1 << 30);
  const Oracle oracle(config);
  std::int64_t token = 0;
  for (const Batch& b : s.text.batches)
    for (std::int64_t q = 0; q < b.tokens.rows(); ++q)
      for (std::int64_t t = 0; t < b.tokens.cols(); ++t) {
        const Tensor ids = b.tokens.slice(q, 1), labels = b.labels.slice(q, 1);
        if (ids.data<std::int32_t>()[t] < 0) continue;
        for (const std::int64_t n : {0, 7, 19}) {
          const double want = std::abs(
              oracle.answer(1, n, ids, one_label(labels, t), 1.0 / double(s.text.all_labels)));
          EXPECT_NEAR(s.scores[1].data<double>()[token * 20 + n], want, 2e-4 * want + 1e-7)
              << "token " << token << ", neuron " << n;
        }
        ++token;
      }
  EXPECT_EQ(token, s.text.tokens);
}

// A document of one input has one term, in every layer.
TEST(Importance, OfEarlierLayersGoesThroughTheLayersAbove) {
  const TestFolder folder;
  const ModelConfig config = test::small_dense(3);
  const Scored s = score_each_token(folder, config, {2, 2, 2, 2}, 1 << 30);
  const Oracle oracle(config);
  ASSERT_EQ(s.text.tokens, 4);
  ASSERT_EQ(s.text.batches.size(), 1u);
  for (std::int64_t l = 0; l < 3; ++l)
    for (std::int64_t t = 0; t < 4; ++t)
      for (const std::int64_t n : {1, 8, 15}) {
        const Batch& b = s.text.batches[0];
        const double want =
            std::abs(oracle.answer(l, n, b.tokens.slice(t, 1), b.labels.slice(t, 1), 1.0 / 4));
        EXPECT_NEAR(s.scores[std::size_t(l)].data<double>()[t * 20 + n], want, 2e-4 * want + 1e-7);
      }
}

TEST(Importance, TextInWavesGivesTheSameScores) {
  const TestFolder a, b;
  const ModelConfig config = test::small_dense();
  const std::vector<std::int64_t> lengths(400, 16);  // more than one batch
  const Scored whole = score_each_token(a, config, lengths, std::int64_t{1} << 40);
  const Scored waves = score_each_token(b, config, lengths, 1);
  ASSERT_GT(whole.text.batches.size(), 1u);
  for (std::size_t l = 0; l < 2; ++l)
    EXPECT_EQ(
        std::memcmp(whole.scores[l].bytes(), waves.scores[l].bytes(), whole.scores[l].nbytes()), 0);
}

}  // namespace
}  // namespace moe
