// SPDX-License-Identifier: Apache-2.0
#include "split/token_clusters.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

/// Tokens around a few directions of different length and frequency.
Tensor tokens(std::int64_t n, std::int64_t hidden, std::int64_t groups, double noise) {
  const Tensor directions = test::random_tensor({groups, hidden}, DType::f32, 1);
  Tensor x = test::random_tensor({n, hidden}, DType::f32, 2, noise);
  for (std::int64_t t = 0; t < n; ++t) {
    const std::int64_t g = (t * t + t / 3) % groups;
    const float length = 1 + float(g);  // long centres swallow tokens where bias is forgotten
    for (std::int64_t i = 0; i < hidden; ++i)
      x.data<float>()[t * hidden + i] += length * directions.data<float>()[g * hidden + i];
  }
  return x;
}

std::vector<std::int64_t> counts(const std::vector<std::int32_t>& labels, std::int64_t clusters) {
  std::vector<std::int64_t> n(std::size_t(clusters), 0);
  for (const std::int32_t l : labels) ++n[std::size_t(l)];
  return n;
}

// LLaMA-MoE v2 clusters by distance and routes by the bare inner product with the centres.
TEST(TokenClusters, V2GatesRouteTokensToTheirOwnClusters) {
  const Tensor x = tokens(600, 24, 7, 0.8);
  for (const TokenMetric metric : {TokenMetric::cosine, TokenMetric::l2}) {
    TokenClustering found = cluster_tokens(x, 7, metric, false, 42, 0);
    EXPECT_EQ(routing_agreement(x, found), 1);
    if (metric == TokenMetric::cosine) continue;
    std::fill_n(found.bias.data<float>(), 7, 0.f);
    EXPECT_LT(routing_agreement(x, found), 0.9);
  }
}

TEST(TokenClusters, BalancedOnesAreRoutedByTheirPricesToo) {
  const Tensor x = tokens(602, 24, 5, 0.8);
  const TokenClustering found = cluster_tokens(x, 4, TokenMetric::l2, true, 42, 0);
  auto sizes = counts(found.labels, 4);
  std::sort(sizes.begin(), sizes.end());
  EXPECT_THAT(sizes, testing::ElementsAre(150, 150, 151, 151));
  EXPECT_GE(routing_agreement(x, found), 0.99);
  EXPECT_THROW(cluster_tokens(x, 4, TokenMetric::cosine, true, 42, 0), InputError);
}

TEST(TokenClusters, PlantedGroupsAreFound) {
  const Tensor x = tokens(400, 32, 4, 0.05);
  const TokenClustering found = cluster_tokens(x, 4, TokenMetric::cosine, false, 3, 1);
  std::vector<std::int32_t> group_label(4, -1);
  for (std::int64_t t = 0; t < 400; ++t) {
    std::int32_t& label = group_label[std::size_t((t * t + t / 3) % 4)];
    if (label < 0) label = found.labels[std::size_t(t)];
    EXPECT_EQ(found.labels[std::size_t(t)], label) << "token " << t;
  }
}

TEST(TokenClusters, DependOnSeedAndStreamAndNoNumberOfThreads) {
  const Tensor x = tokens(500, 16, 9, 2);
  const auto labels = [&](std::uint64_t seed, std::uint64_t stream) {
    return cluster_tokens(x, 5, TokenMetric::cosine, false, seed, stream).labels;
  };
  EXPECT_NE(labels(1, 0), labels(2, 0));
  EXPECT_NE(labels(1, 0), labels(1, 1));
  test::expect_same_bits_on_any_threads([&] {
    const TokenClustering c = cluster_tokens(x, 5, TokenMetric::l2, true, 1, 0);
    return std::vector<Tensor>{c.weight, c.bias};
  });
}

TEST(TokenClusters, NeedAsManyTokensAsClusters) {
  EXPECT_THROW(cluster_tokens(tokens(3, 8, 2, 1), 4, TokenMetric::cosine, false, 1, 0), InputError);
  EXPECT_THROW(token_metric_named("euclid"), InputError);
}

}  // namespace
}  // namespace moe
