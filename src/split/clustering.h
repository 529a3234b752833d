// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace moe {

/// Clusters of given sizes and what they cost. The objective is k-means' inertia: the sum over
/// points of the squared distance to the mean of their cluster.
struct Clustering {
  std::vector<std::int32_t> labels;
  double objective = 0;
  /// The inertia if every point went to its nearest mean: what balance alone costs is the rest.
  double unbalanced = 0;
  int iterations = 0;  // of the best start
};

/// Scales every row to length 1, in place; zero rows stay. points: f32 [n, d].
void normalise_rows(Tensor& points);

/// The inertia of given clusters. points: f32 [n, d].
double inertia(const Tensor& points, const std::vector<std::int32_t>& labels,
               std::int64_t clusters);

/// K-means under fixed cluster sizes: k-means++ seeds (Arthur & Vassilvitskii 2007), then Lloyd
/// steps whose assignment is the cheapest one of those sizes (Bradley, Bennett & Demiriz 2000);
/// uneven sizes go to the clusters that compete most for points. A run ends when no label changes
/// or the spread that the clusters explain grows by less than 1e-4 of itself; the best of `starts`
/// runs is returned, cluster e with sizes[e] points.
///
/// points: f32 [n, d]. A pure function of the arguments: sums are f64 sums of exact products in an
/// order of their own, the assignment is integer arithmetic.
Clustering balanced_kmeans(const Tensor& points, const std::vector<std::int64_t>& sizes,
                           std::uint64_t seed, std::uint64_t stream, int starts);

}  // namespace moe
