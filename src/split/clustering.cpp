// SPDX-License-Identifier: Apache-2.0
#include "split/clustering.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "split/balanced_assignment.h"

namespace moe {

namespace {

constexpr std::int64_t kRowGrain = 256;  // rows per parallel chunk
constexpr std::int64_t kColGrain = 512;  // columns per parallel chunk
constexpr int kMaxIterations = 100;
constexpr double kTolerance = 1e-4;

/// Cluster centres as f32 values held in f64, [blocks][d][kBlock]: eight clusters side by side, the
/// last block padded with zeros. A product of two such values is exact in f64, so a sum of them has
/// the same bits with and without fused multiply-add.
class Centres {
 public:
  static constexpr std::int64_t kBlock = 8;

  Centres(std::int64_t clusters, std::int64_t dims, ClusterMetric metric)
      : clusters_(clusters),
        dims_(dims),
        metric_(metric),
        values_(std::size_t((clusters + kBlock - 1) / kBlock * kBlock * dims), 0.0),
        squares_(std::size_t(clusters), 0.0),
        gains_(std::size_t(clusters), 0.0) {}

  std::int64_t clusters() const { return clusters_; }
  double square(std::int64_t c) const { return squares_[std::size_t(c)]; }
  /// What the points' own squared lengths exceed the inertia by.
  double explained(const std::vector<std::int64_t>& sizes) const {
    double sum = 0;
    for (std::size_t c = 0; c < gains_.size(); ++c) sum += double(sizes[c]) * gains_[c];
    return sum;
  }

  void set_to_point(std::int64_t c, const float* point) {
    for (std::int64_t d = 0; d < dims_; ++d) at(c, d) = double(point[d]);
    finish(c);
  }

  /// The mean of each cluster's points.
  void set_to_means(const Tensor& points, const std::vector<std::int32_t>& labels) {
    const std::int64_t n = points.rows();
    const float* x = points.data<float>();
    std::vector<std::int64_t> counts(std::size_t(clusters_), 0);
    for (const std::int32_t c : labels) ++counts[std::size_t(c)];
    parallel_for(dims_, kColGrain, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> sums(std::size_t(clusters_ * (end - begin)), 0.0);
      for (std::int64_t i = 0; i < n; ++i) {
        double* sum = sums.data() + labels[std::size_t(i)] * (end - begin);
        const float* row = x + i * dims_;
        for (std::int64_t d = begin; d < end; ++d) sum[d - begin] += double(row[d]);
      }
      for (std::int64_t c = 0; c < clusters_; ++c)
        for (std::int64_t d = begin; d < end; ++d)
          at(c, d) = double(float(sums[std::size_t(c * (end - begin) + d - begin)] /
                                  double(counts[std::size_t(c)])));
    });
    for (std::int64_t c = 0; c < clusters_; ++c) finish(c);
  }

  /// products[i * kBlock + j] = <row i, centre 8 * block + j> for two rows.
  void dot_pair(const float* row0, const float* row1, std::int64_t block, double* products) const {
    const double* m = values_.data() + block * dims_ * kBlock;
    double sum0[kBlock] = {}, sum1[kBlock] = {};
    for (std::int64_t d = 0; d < dims_; ++d) {
      const double x0 = double(row0[d]), x1 = double(row1[d]);
      for (std::int64_t j = 0; j < kBlock; ++j) {
        sum0[j] += x0 * m[d * kBlock + j];
        sum1[j] += x1 * m[d * kBlock + j];
      }
    }
    std::copy(sum0, sum0 + kBlock, products);
    std::copy(sum1, sum1 + kBlock, products + kBlock);
  }

 private:
  double& at(std::int64_t c, std::int64_t d) {
    return values_[std::size_t((c / kBlock * dims_ + d) * kBlock + c % kBlock)];
  }
  /// Turns a mean into the centre. A mean of zero has no direction: its points' cosine is 0.
  void finish(std::int64_t c) {
    double sum = 0;
    for (std::int64_t d = 0; d < dims_; ++d) sum += at(c, d) * at(c, d);
    squares_[std::size_t(c)] = gains_[std::size_t(c)] = sum;
    if (metric_ == ClusterMetric::l2) return;
    const double length = std::sqrt(sum);
    squares_[std::size_t(c)] = 1;
    gains_[std::size_t(c)] = length;
    if (length == 0) return;
    for (std::int64_t d = 0; d < dims_; ++d) at(c, d) = double(float(at(c, d) / length));
  }

  std::int64_t clusters_, dims_;
  ClusterMetric metric_;
  std::vector<double> values_, squares_, gains_;
};

std::vector<double> squared_norms(const Tensor& points) {
  const std::int64_t d = points.cols();
  std::vector<double> norms(std::size_t(points.rows()));
  parallel_for(points.rows(), kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float* row = points.data<float>() + i * d;
      double sum = 0;
      for (std::int64_t j = 0; j < d; ++j) sum += double(row[j]) * double(row[j]);
      norms[std::size_t(i)] = sum;
    }
  });
  return norms;
}

/// distances[i, c] = |x_i - centre_c|^2, never negative; between unit vectors 2 (1 - cosine).
void squared_distances(std::vector<double>& distances, const Tensor& points,
                       const std::vector<double>& norms, const Centres& centres) {
  const std::int64_t n = points.rows(), d = points.cols(), clusters = centres.clusters();
  distances.resize(std::size_t(n * clusters));
  parallel_for(n, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    double products[2 * Centres::kBlock];
    for (std::int64_t first = 0; first < clusters; first += Centres::kBlock)
      for (std::int64_t i = begin; i < end; i += 2) {
        const std::int64_t other = std::min(i + 1, end - 1);
        centres.dot_pair(points.data<float>() + i * d, points.data<float>() + other * d,
                         first / Centres::kBlock, products);
        for (std::int64_t row = i; row <= other; ++row)
          for (std::int64_t c = first; c < std::min(first + Centres::kBlock, clusters); ++c)
            distances[std::size_t(row * clusters + c)] =
                std::max(0.0, norms[std::size_t(row)] + centres.square(c) -
                                  2 * products[(row - i) * Centres::kBlock + c - first]);
      }
  });
}

/// The first seed is any point; each further one is drawn with a chance proportional to its squared
/// distance from the seeds so far.
Centres kmeanspp_seeds(const Tensor& points, const std::vector<double>& norms,
                       std::int64_t clusters, ClusterMetric metric, const Philox& random) {
  const std::int64_t n = points.rows(), d = points.cols();
  Centres seeds(clusters, d, metric);
  std::vector<double> nearest(std::size_t(n), std::numeric_limits<double>::infinity()), distance;
  std::int64_t chosen = std::int64_t(random.below(0, std::uint64_t(n)));
  for (std::int64_t c = 0;; ++c) {
    const float* seed = points.data<float>() + chosen * d;
    seeds.set_to_point(c, seed);
    if (c + 1 == clusters) return seeds;
    Centres last(1, d, metric);
    last.set_to_point(0, seed);
    squared_distances(distance, points, norms, last);
    double total = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      nearest[std::size_t(i)] = std::min(nearest[std::size_t(i)], distance[std::size_t(i)]);
      total += nearest[std::size_t(i)];
    }
    double rest = random.uniform(std::uint64_t(c) + 1) * total;
    for (chosen = 0; chosen + 1 < n; ++chosen) {
      rest -= nearest[std::size_t(chosen)];
      if (rest < 0) break;
    }
  }
}

/// The distances as integers: exact arithmetic makes the assignment's result unambiguous.
class IntegerCosts {
 public:
  explicit IntegerCosts(const std::vector<double>& norms) {
    double largest = 0;
    for (const double norm : norms) largest = std::max(largest, norm);
    // Distances are at most 4 * largest, and 2^40 times 2^20 points stays below 2^62.
    scale_ = largest > 0 ? 0x1p38 / largest : 1;
  }
  const std::vector<std::int64_t>& of(const std::vector<double>& distances) {
    costs_.resize(distances.size());
    for (std::size_t i = 0; i < costs_.size(); ++i)
      costs_[i] = std::int64_t(distances[i] * scale_ + 0.5);
    return costs_;
  }

 private:
  double scale_;
  std::vector<std::int64_t> costs_;
};

/// The same sizes in another order: the more sought-after a cluster is, the more points it gets.
std::vector<std::int64_t> sizes_by_price(std::vector<std::int64_t> sizes,
                                         const std::vector<std::int64_t>& prices) {
  std::vector<std::size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return prices[a] > prices[b]; });
  std::sort(sizes.begin(), sizes.end(), std::greater<>());
  std::vector<std::int64_t> result(sizes.size());
  for (std::size_t rank = 0; rank < order.size(); ++rank) result[order[rank]] = sizes[rank];
  return result;
}

/// Renames clusters so that cluster e has wanted[e] points instead of sizes[e].
void rename_clusters(std::vector<std::int32_t>& labels, std::vector<std::int64_t> sizes,
                     const std::vector<std::int64_t>& wanted) {
  std::vector<std::int32_t> new_name(sizes.size());
  for (std::size_t e = 0; e < wanted.size(); ++e) {
    const auto cluster = std::find(sizes.begin(), sizes.end(), wanted[e]);
    new_name[std::size_t(cluster - sizes.begin())] = std::int32_t(e);
    *cluster = -1;
  }
  for (std::int32_t& label : labels) label = new_name[std::size_t(label)];
}

/// What the inertia of points with a summed squared length of `total` would be without balance.
double nearest_inertia(const std::vector<double>& distances, std::int64_t clusters, double total,
                       ClusterMetric metric) {
  double sum = 0;
  for (auto row = distances.begin(); row != distances.end(); row += clusters)
    sum += *std::min_element(row, row + clusters);
  if (metric == ClusterMetric::l2) return sum;
  const double points = double(distances.size()) / double(clusters);
  return (sum + total - points) / 2;  // a distance is |x|^2 + 1 - 2 cosine, |x| 1 or 0
}

}  // namespace

void normalise_rows(Tensor& points) {
  const std::int64_t d = points.cols();
  const std::vector<double> norms = squared_norms(points);
  parallel_for(points.rows(), kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      if (norms[std::size_t(i)] == 0) continue;
      const double factor = 1 / std::sqrt(norms[std::size_t(i)]);
      float* row = points.data<float>() + i * d;
      for (std::int64_t j = 0; j < d; ++j) row[j] = float(double(row[j]) * factor);
    }
  });
}

double inertia(const Tensor& points, const std::vector<std::int32_t>& labels, std::int64_t clusters,
               ClusterMetric metric) {
  Centres centres(clusters, points.cols(), metric);
  centres.set_to_means(points, labels);
  std::vector<std::int64_t> sizes(std::size_t(clusters), 0);
  for (const std::int32_t c : labels) ++sizes[std::size_t(c)];
  double total = 0;
  for (const double norm : squared_norms(points)) total += norm;
  return total - centres.explained(sizes);
}

Clustering balanced_kmeans(const Tensor& points, const std::vector<std::int64_t>& sizes,
                           std::uint64_t seed, std::uint64_t stream, int starts,
                           ClusterMetric metric) {
  MOE_CHECK(starts >= 1, "k-means needs at least one start");
  const std::int64_t clusters = std::int64_t(sizes.size());
  const std::vector<double> norms = squared_norms(points);
  double total = 0;
  for (const double norm : norms) total += norm;
  MOE_CHECK(std::isfinite(total), "k-means over points that are not finite");

  IntegerCosts costs(norms);
  std::vector<double> distances;
  Clustering best;
  best.objective = std::numeric_limits<double>::infinity();
  for (int start = 0; start < starts; ++start) {
    const Philox random(seed, RandomPurpose::split, {stream, std::uint64_t(start), 1});
    Centres centres = kmeanspp_seeds(points, norms, clusters, metric, random);
    std::vector<std::int64_t> prices(std::size_t(clusters), 0);
    std::vector<std::int64_t> current = sizes, run_sizes = sizes;
    Clustering run;
    double explained = -1;
    while (run.iterations < kMaxIterations) {
      squared_distances(distances, points, norms, centres);
      std::vector<std::int32_t> labels = balanced_assignment(costs.of(distances), current, prices);
      if (labels == run.labels) break;
      Centres moved(clusters, points.cols(), metric);
      moved.set_to_means(points, labels);
      const double now = moved.explained(current);
      if (now <= explained) break;
      const bool small_gain = now <= explained * (1 + kTolerance);
      run.labels = std::move(labels);
      run_sizes = current;
      centres = std::move(moved);
      explained = now;
      ++run.iterations;
      if (small_gain) break;
      current = sizes_by_price(current, prices);
    }
    run.objective = total - explained;
    if (run.objective >= best.objective) continue;
    squared_distances(distances, points, norms, centres);
    run.unbalanced = nearest_inertia(distances, clusters, total, metric);
    rename_clusters(run.labels, run_sizes, sizes);
    best = std::move(run);
  }
  return best;
}

}  // namespace moe
