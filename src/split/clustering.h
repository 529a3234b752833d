// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace moe {

/// What a cluster's centre is and how far a point is from it.
enum class ClusterMetric : std::uint8_t {
  l2,      // the mean; the squared distance, also between normalised rows as in LLaMA-MoE v1
  cosine,  // the mean's direction; 1 - cosine (spherical k-means, Dhillon & Modha 2001). Points
           // must be unit vectors or zeros.
};

/// Clusters of given sizes and what they cost. The objective is k-means' inertia: the sum over
/// points of how far they are from the centre of their cluster.
struct Clustering {
  std::vector<std::int32_t> labels;
  double objective = 0;
  /// The inertia if every point went to its nearest centre: what balance alone costs is the rest.
  double unbalanced = 0;
  int iterations = 0;  // of the best start
};

/// Scales every row to length 1, in place; zero rows stay. points: f32 [n, d].
void normalise_rows(Tensor& points);

/// The inertia of given clusters. points: f32 [n, d].
double inertia(const Tensor& points, const std::vector<std::int32_t>& labels, std::int64_t clusters,
               ClusterMetric metric = ClusterMetric::l2);

/// K-means under fixed cluster sizes: k-means++ seeds (Arthur & Vassilvitskii 2007), then Lloyd
/// steps whose assignment is the cheapest one of those sizes (Bradley, Bennett & Demiriz 2000);
/// uneven sizes go to the clusters that compete most for points. A run ends when no label changes
/// or the spread that the clusters explain grows by less than 1e-4 of itself; the best of `starts`
/// runs is returned, cluster e with sizes[e] points.
///
/// points: f32 [n, d]. A pure function of the arguments: sums are f64 sums of exact products in an
/// order of their own, the assignment is integer arithmetic.
Clustering balanced_kmeans(const Tensor& points, const std::vector<std::int64_t>& sizes,
                           std::uint64_t seed, std::uint64_t stream, int starts,
                           ClusterMetric metric = ClusterMetric::l2);

}  // namespace moe
