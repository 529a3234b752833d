// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace moe {

enum class TokenMetric : std::uint8_t { cosine, l2 };
/// "cosine" or "l2"; throws InputError otherwise.
TokenMetric token_metric_named(std::string_view text);

/// Clusters of calibration tokens, and the linear gate that sends every token to its own cluster:
/// the cluster of x is the largest of weight x + bias, ties to the lowest.
struct TokenClustering {
  Tensor weight;  // f32 [clusters, hidden]: cosine: unit vectors; l2: the centres
  Tensor bias;    // f32 [clusters]: cosine: zeros; l2: -|centre|^2 / 2, minus the price of balance
  std::vector<std::int32_t> labels;
};

/// K-means of rows of x (f32 [tokens, hidden]) from k-means++ seeds: by cosine similarity
/// (spherical k-means, Dhillon & Modha 2001; a linear gate without bias is enough) or by Euclidean
/// distance. `balanced` (l2 only) gives every cluster as many tokens as the others: the exact
/// assignment's prices (split/balanced_assignment.h) become part of the bias, so that one linear
/// gate still routes as the clustering does. The same on any number of threads.
TokenClustering cluster_tokens(const Tensor& x, std::int64_t clusters, TokenMetric metric,
                               bool balanced, std::uint64_t seed, std::uint64_t stream);

/// The share of rows of x for which the largest of weight x + bias is their label.
double routing_agreement(const Tensor& x, const TokenClustering& clustering);

}  // namespace moe
