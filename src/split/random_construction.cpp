// SPDX-License-Identifier: Apache-2.0
#include "core/rng.h"
#include "split/construction.h"

namespace moe {

namespace {

class RandomConstruction final : public Construction {
 public:
  LayerSplit split(const SplitContext& context, const FfnWeights&) const override {
    const Philox random(context.seed, RandomPurpose::split, {std::uint64_t(context.layer)});
    LayerSplit result;
    result.partition.experts =
        consecutive_sets(permutation(context.neurons, random), context.sizes);
    return result;
  }
};

}  // namespace

std::unique_ptr<Construction> make_random_construction(const ConstructionOptions&) {
  return std::make_unique<RandomConstruction>();
}

}  // namespace moe
