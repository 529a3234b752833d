// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <cmath>
#include <map>
#include <numbers>

#include "core/error.h"
#include "split/clustering.h"
#include "split/split_context.h"

namespace moe {
namespace {

using test::random_tensor;
using test::random_weights;
using test::split_context;
using testing::ElementsAre;
using testing::UnorderedElementsAre;

ConstructionOptions metric(const char* name, int starts = 3) {
  ConstructionOptions options;
  options.cluster_metric = name;
  options.cluster_starts = starts;
  return options;
}

LayerSplit cluster(const Tensor& rows, std::int64_t experts, const ConstructionOptions& options) {
  return make_construction("clustering", options)
      ->split(split_context(rows.rows(), experts), [&](std::string_view) { return rows.clone(); });
}

TEST(ClusteringConstruction, DependsOnSeedAndLayer) {
  const auto method = make_construction("clustering", {});
  const FfnWeights weights = random_weights(172, 12);
  const Partition first = method->split(split_context(172, 8), weights).partition;
  EXPECT_NE(method->split(split_context(172, 8, 43), weights).partition, first);
  EXPECT_NE(method->split(split_context(172, 8, 42, 1), weights).partition, first);
}

TEST(ClusteringConstruction, ReadsTheProjectionItWasToldToUse) {
  for (const std::string part : {"up", "gate"}) {
    ConstructionOptions options;
    options.cluster_on = part;
    std::string asked;
    const FfnWeights weights = [&](std::string_view name) {
      asked += name;
      return random_weights(40, 6)(name);
    };
    make_construction("clustering", options)->split(split_context(40, 4), weights);
    EXPECT_EQ(asked, part);
  }
}

// Two bundles of directions, whatever the lengths: neurons 0, 2, 4 point along the first axis,
// 1 and 3 along the second. Unnormalised, the long row 2 would be a cluster with row 4.
TEST(ClusteringConstruction, ComparesDirectionsNotLengths) {
  const Tensor rows = Tensor::of<float>({5, 2}, {1, 0, 0, 1, 90, 1, 0.1f, 2, 50, 0});
  for (const char* name : {"l2", "cosine"})
    EXPECT_THAT(cluster(rows, 2, metric(name)).partition.experts,
                ElementsAre(ElementsAre(0, 2, 4), ElementsAre(1, 3)))
        << name;
}

// Unit rows at 5, -5, 100 and -100 degrees, in two pairs. With a and b the angles inside the pairs,
// k-means maximises the sum of the squared lengths of the pairs' sums, (2 + 2 cos a) + (2 + 2 cos
// b); cosine similarity adds the lengths themselves, 2 cos(a/2) + 2 cos(b/2):
//   {5, -5} {100, -100}: a = 10, b = 160: squared 3.97 + 0.12 = 4.09, lengths 1.99 + 0.35 = 2.34
//   {5, 100} {-5, -100}: a = b = 95:      squared 1.83 + 1.83 = 3.65, lengths 1.35 + 1.35 = 2.70
//   {5, -100} {-5, 100}: a = b = 105:     squared 1.48 + 1.48 = 2.96, lengths 1.22 + 1.22 = 2.44
// The objectives are 4 - squared / 2 and 4 - lengths.
TEST(ClusteringConstruction, V1Defect2CosineIsNotL2) {
  std::vector<float> rows;
  for (const double degrees : {5.0, -5.0, 100.0, -100.0}) {
    const double angle = degrees * std::numbers::pi / 180, length = 1 + double(rows.size());
    rows.push_back(float(length * std::cos(angle)));
    rows.push_back(float(length * std::sin(angle)));
  }
  const Tensor points = Tensor::of<float>({4, 2}, rows);
  const LayerSplit l2 = cluster(points, 2, metric("l2", 20));
  const LayerSplit cosine = cluster(points, 2, metric("cosine", 20));
  EXPECT_THAT(l2.partition.experts, UnorderedElementsAre(ElementsAre(0, 1), ElementsAre(2, 3)));
  EXPECT_THAT(cosine.partition.experts, UnorderedElementsAre(ElementsAre(0, 2), ElementsAre(1, 3)));
  EXPECT_NEAR(l2.measures.at(0).second, 4 - 4.0904 / 2, 1e-3);
  EXPECT_NEAR(cosine.measures.at(0).second, 4 - 2.7024, 1e-3);
}

TEST(ClusteringConstruction, BeatsTheRandomSplit) {
  for (const char* name : {"l2", "cosine"}) {
    const LayerSplit split = make_construction("clustering", metric(name))
                                 ->split(split_context(172, 8), random_weights(172, 12));
    const std::map<std::string, double> m(split.measures.begin(), split.measures.end());
    EXPECT_LT(m.at("objective"), m.at("objective_random")) << name;
    EXPECT_LE(m.at("objective_unbalanced"), m.at("objective")) << name;
  }
}

// The definition, point by point: 1 - cosine to the sum of the cluster's points.
TEST(ClusteringConstruction, CosineInertiaIsTheSumOfOneMinusCosine) {
  constexpr std::int64_t kPoints = 60, kDims = 5, kClusters = 4;
  Tensor x = random_tensor({kPoints, kDims}, DType::f32, 4);
  std::fill_n(x.data<float>() + 7 * kDims, kDims, 0.0f);
  normalise_rows(x);
  const Clustering found =
      balanced_kmeans(x, even_sizes(kPoints, kClusters), 1, 0, 2, ClusterMetric::cosine);
  double sums[kClusters][kDims] = {}, expected = 0;
  for (std::int64_t i = 0; i < kPoints; ++i)
    for (std::int64_t d = 0; d < kDims; ++d)
      sums[found.labels[std::size_t(i)]][d] += double(x.data<float>()[i * kDims + d]);
  for (std::int64_t i = 0; i < kPoints; ++i) {
    const double* sum = sums[found.labels[std::size_t(i)]];
    double product = 0, square = 0;
    for (std::int64_t d = 0; d < kDims; ++d) {
      product += double(x.data<float>()[i * kDims + d]) * sum[d];
      square += sum[d] * sum[d];
    }
    expected += (i == 7 ? 0 : 1) - product / std::sqrt(square);
  }
  EXPECT_NEAR(found.objective, expected, 1e-5);
  EXPECT_NEAR(inertia(x, found.labels, kClusters, ClusterMetric::cosine), expected, 1e-5);
  EXPECT_LE(found.unbalanced, found.objective);
}

TEST(ClusteringConstruction, RowsOfZerosHaveNoDirectionAndAreSplitAllTheSame) {
  const LayerSplit split = cluster(Tensor::zeros({11, 3}, DType::f32), 4, metric("cosine"));
  EXPECT_NO_THROW(check_partition(split.partition, 11, Coverage::exact));
  EXPECT_THAT(sizes_of(split.partition.experts), ElementsAre(3, 3, 3, 2));
}

TEST(ClusteringConstruction, OptionsItCannotUseAreRefused) {
  ConstructionOptions down, none;
  down.cluster_on = "down";
  none.cluster_starts = 0;
  EXPECT_THROW(make_construction("clustering", down), InputError);
  EXPECT_THROW(make_construction("clustering", none), InputError);
  EXPECT_THROW(make_construction("clustering", metric("cos")), InputError);
}

}  // namespace
}  // namespace moe
