// SPDX-License-Identifier: Apache-2.0
#include "core/error.h"
#include "split/clustering.h"
#include "split/construction.h"

namespace moe {

namespace {

/// Neurons whose normalised rows of one projection are close share an expert (LLaMA-MoE v1's
/// independent clustering).
class ClusteringConstruction final : public Construction {
 public:
  explicit ClusteringConstruction(const ConstructionOptions& options) : options_(options) {
    MOE_REQUIRE(options_.cluster_on == "up" || options_.cluster_on == "gate", "cannot cluster on '",
                options_.cluster_on, "': use up or gate");
    MOE_REQUIRE(options_.cluster_metric == "l2" || options_.cluster_metric == "cosine",
                "no distance between neurons is called '", options_.cluster_metric,
                "': use l2 or cosine");
    MOE_REQUIRE(options_.cluster_starts >= 1, "clustering needs at least one start, got ",
                options_.cluster_starts);
  }

  LayerSplit split(const SplitContext& context, const FfnWeights& weights) const override {
    Tensor points = weights(options_.cluster_on);
    normalise_rows(points);
    const ClusterMetric metric =
        options_.cluster_metric == "l2" ? ClusterMetric::l2 : ClusterMetric::cosine;
    const Clustering found =
        balanced_kmeans(points, context.sizes, context.seed, std::uint64_t(context.layer),
                        options_.cluster_starts, metric);
    const LayerSplit random = make_random_construction(options_)->split(context, weights);
    std::vector<std::int32_t> random_labels(std::size_t(context.neurons));
    for (std::size_t e = 0; e < random.partition.experts.size(); ++e)
      for (const std::int64_t n : random.partition.experts[e])
        random_labels[std::size_t(n)] = std::int32_t(e);

    LayerSplit result;
    result.partition = partition_of_labels(found.labels, context.experts());
    result.measures = {
        {"objective", found.objective},
        {"objective_random", inertia(points, random_labels, context.experts(), metric)},
        {"objective_unbalanced", found.unbalanced},
        {"iterations", double(found.iterations)},
    };
    return result;
  }

 private:
  ConstructionOptions options_;
};

}  // namespace

std::unique_ptr<Construction> make_clustering_construction(const ConstructionOptions& options) {
  return std::make_unique<ClusteringConstruction>(options);
}

}  // namespace moe
