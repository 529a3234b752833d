// SPDX-License-Identifier: Apache-2.0
#include <numeric>

#include "core/error.h"
#include "split/construction.h"

namespace moe {

namespace {

NeuronSets slices(std::int64_t neurons, const std::vector<std::int64_t>& sizes) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(neurons));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  return consecutive_sets(order, sizes);
}

class SequentialConstruction final : public Construction {
 public:
  LayerSplit split(const SplitContext& context, const FfnWeights&) const override {
    LayerSplit result;
    result.partition.experts = slices(context.neurons, context.sizes);
    return result;
  }
};

class CopyConstruction final : public Construction {
 public:
  explicit CopyConstruction(const ConstructionOptions& options)
      : granularity_(options.copy_granularity) {
    MOE_REQUIRE(granularity_ >= 1, "the granularity of copies must be positive, is ", granularity_);
  }

  Coverage coverage() const override { return Coverage::any; }

  std::vector<std::int64_t> sizes(std::int64_t neurons, std::int64_t experts) const override {
    MOE_REQUIRE(experts >= 1 && experts % granularity_ == 0, "method copy with granularity ",
                granularity_, " makes a multiple of ", granularity_, " experts, not ", experts);
    const std::vector<std::int64_t> of_slices = even_sizes(neurons, granularity_);
    std::vector<std::int64_t> result;
    for (std::int64_t e = 0; e < experts; ++e)
      result.push_back(of_slices[std::size_t(e % granularity_)]);
    return result;
  }

  double natural_scale(std::int64_t, std::int64_t) const override { return double(granularity_); }

  LayerSplit split(const SplitContext& context, const FfnWeights&) const override {
    const auto expected = sizes(context.neurons, context.experts());
    MOE_REQUIRE(context.sizes == expected, "method copy makes experts of ", join(expected, ", "),
                " neurons, not of ", join(context.sizes, ", "));
    const NeuronSets parts = slices(context.neurons, even_sizes(context.neurons, granularity_));
    LayerSplit result;
    for (std::int64_t e = 0; e < context.experts(); ++e)
      result.partition.experts.push_back(parts[std::size_t(e % granularity_)]);
    return result;
  }

 private:
  std::int64_t granularity_;
};

}  // namespace

std::unique_ptr<Construction> make_sequential_construction(const ConstructionOptions&) {
  return std::make_unique<SequentialConstruction>();
}

std::unique_ptr<Construction> make_copy_construction(const ConstructionOptions& options) {
  return std::make_unique<CopyConstruction>(options);
}

}  // namespace moe
