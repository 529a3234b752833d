// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/rng.h"
#include "split/construction.h"

namespace moe {

namespace {

class RandomConstruction final : public Construction {
 public:
  LayerSplit split(const SplitContext& context, const FfnWeights&) const override {
    const Philox random(context.seed, RandomPurpose::split, {std::uint64_t(context.layer)});
    const std::vector<std::int64_t> shuffled = permutation(context.neurons, random);
    LayerSplit result;
    auto next = shuffled.begin();
    for (const std::int64_t size : context.sizes) {
      std::vector<std::int64_t> expert(next, next + size);
      next += size;
      std::sort(expert.begin(), expert.end());
      result.partition.experts.push_back(std::move(expert));
    }
    return result;
  }
};

}  // namespace

std::unique_ptr<Construction> make_random_construction(const ConstructionOptions&) {
  return std::make_unique<RandomConstruction>();
}

}  // namespace moe
