// SPDX-License-Identifier: Apache-2.0
#include "split/clustering.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "split/partition.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

/// n points around `clusters` far directions; point i belongs to direction labels[i].
Tensor planted(std::int64_t n, std::int64_t dims, const std::vector<std::int32_t>& labels,
               double spread) {
  const Philox random(3, RandomPurpose::test);
  Tensor x = Tensor::empty({n, dims}, DType::f32);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t d = 0; d < dims; ++d) {
      const std::uint64_t centre = 1'000'000 + std::uint64_t(labels[std::size_t(i)]) * 1000;
      x.data<float>()[i * dims + d] = float(random.normal(centre + std::uint64_t(d)) +
                                            spread * random.normal(std::uint64_t(i * dims + d)));
    }
  return x;
}

std::vector<std::int32_t> mixed_labels(const std::vector<std::int64_t>& sizes) {
  std::vector<std::int32_t> sorted, labels;
  for (std::size_t e = 0; e < sizes.size(); ++e)
    sorted.insert(sorted.end(), std::size_t(sizes[e]), std::int32_t(e));
  for (const std::int64_t i :
       permutation(std::int64_t(sorted.size()), Philox(11, RandomPurpose::test)))
    labels.push_back(sorted[std::size_t(i)]);
  return labels;
}

std::vector<std::int64_t> counts(const std::vector<std::int32_t>& labels, std::size_t clusters) {
  std::vector<std::int64_t> n(clusters, 0);
  for (const std::int32_t e : labels) ++n[std::size_t(e)];
  return n;
}

/// The definition: squared distances to the mean, point by point.
double plain_inertia(const Tensor& x, const std::vector<std::int32_t>& labels,
                     std::size_t clusters) {
  const std::int64_t dims = x.cols();
  const auto n = counts(labels, clusters);
  std::vector<double> means(clusters * std::size_t(dims), 0.0);
  for (std::size_t i = 0; i < labels.size(); ++i)
    for (std::int64_t d = 0; d < dims; ++d)
      means[std::size_t(labels[i] * dims + d)] +=
          double(x.data<float>()[std::int64_t(i) * dims + d]) / double(n[std::size_t(labels[i])]);
  double sum = 0;
  for (std::size_t i = 0; i < labels.size(); ++i)
    for (std::int64_t d = 0; d < dims; ++d)
      sum += std::pow(double(x.data<float>()[std::int64_t(i) * dims + d]) -
                          means[std::size_t(labels[i] * dims + d)],
                      2);
  return sum;
}

TEST(Clustering, InertiaIsTheSumOfSquaredDistancesToTheMeans) {
  const auto sizes = even_sizes(100, 5);
  const auto labels = mixed_labels(sizes);
  const Tensor x = planted(100, 7, labels, 0.5);
  EXPECT_NEAR(inertia(x, labels, 5), plain_inertia(x, labels, 5), 1e-4);
}

TEST(Clustering, RecoversPlantedClusters) {
  const auto sizes = even_sizes(172, 10);  // more than one block of eight, uneven
  const auto truth = mixed_labels(sizes);
  Tensor x = planted(172, 24, truth, 0.05);
  normalise_rows(x);
  const Clustering found = balanced_kmeans(x, sizes, 1, 0, 3);
  for (std::size_t i = 0; i < truth.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      ASSERT_EQ(truth[i] == truth[j], found.labels[i] == found.labels[j]) << i << " and " << j;
  EXPECT_EQ(counts(found.labels, 10), sizes);
  EXPECT_NEAR(found.objective, plain_inertia(x, found.labels, 10), 1e-5);
}

TEST(Clustering, BalancedObjectiveLiesBetweenUnbalancedAndRandom) {
  const auto sizes = even_sizes(300, 8);
  Tensor x = planted(300, 20, std::vector<std::int32_t>(300, 0), 1.0);
  normalise_rows(x);
  const Clustering found = balanced_kmeans(x, sizes, 1, 0, 3);
  EXPECT_EQ(counts(found.labels, 8), sizes);
  EXPECT_LE(found.unbalanced, found.objective);
  EXPECT_LT(found.objective, 0.95 * inertia(x, mixed_labels(sizes), 8));
  EXPECT_LE(found.objective, balanced_kmeans(x, sizes, 1, 0, 1).objective);
}

TEST(Clustering, SameBitsOnAnyNumberOfThreads) {
  const auto sizes = even_sizes(1000, 12);
  Tensor x = planted(1000, 600, std::vector<std::int32_t>(1000, 0), 1.0);
  normalise_rows(x);
  const auto on = [&](int threads) {
    const test::OpenMpThreads scope(threads);
    return balanced_kmeans(x, sizes, 5, 2, 2);
  };
  const Clustering one = on(1), three = on(3);
  EXPECT_EQ(one.labels, three.labels);
  EXPECT_EQ(one.objective, three.objective);
  EXPECT_EQ(one.unbalanced, three.unbalanced);
}

TEST(Clustering, EqualAndZeroPointsAreDividedToo) {
  const auto sizes = even_sizes(11, 4);
  Tensor zeros = Tensor::zeros({11, 3}, DType::f32);
  normalise_rows(zeros);
  EXPECT_EQ(counts(balanced_kmeans(zeros, sizes, 1, 0, 2).labels, 4), sizes);
}

TEST(Clustering, RowsBecomeUnitVectors) {
  Tensor x = Tensor::of<float>({3, 2}, {3, 4, 0, 0, -5, 0});
  normalise_rows(x);
  EXPECT_THAT(std::vector<float>(x.data<float>(), x.data<float>() + 6),
              testing::Pointwise(testing::FloatEq(), {0.6f, 0.8f, 0.f, 0.f, -1.f, 0.f}));
}

}  // namespace
}  // namespace moe
