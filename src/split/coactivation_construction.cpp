// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/error.h"
#include "split/coactivation.h"
#include "split/construction.h"

namespace moe {

namespace {

/// Neurons that fire on the same tokens share an expert, so that few experts hold what a token
/// needs (MoEfication, Zhang et al. 2022; LLaMA-MoE v1's graph split).
class CoactivationConstruction final : public Construction {
 public:
  CalibrationNeed need() const override { return CalibrationNeed::inputs; }

  LayerSplit split(const SplitContext& context, const FfnWeights& weights) const override {
    const Tensor& inputs = required(context, &LayerCalibration::inputs, "coactivation");
    MOE_REQUIRE(inputs.rows() > 0, "the calibration text has no tokens");
    const Tensor edges = coactivation(inputs, weights("gate"), weights("up"));
    const auto labels = coactivation_parts(edges, context.sizes, context.seed);
    double pairs = 0;
    for (const std::int64_t size : context.sizes) pairs += double(size) * double(size - 1);
    LayerSplit result;
    result.partition = partition_of_labels(labels, context.experts());
    result.measures = {
        {"weight_within", weight_within_parts(edges, labels)},
        // What a random split has on average.
        {"weight_within_random",
         pairs / std::max(1.0, double(context.neurons) * double(context.neurons - 1))},
    };
    return result;
  }
};

}  // namespace

std::unique_ptr<Construction> make_coactivation_construction(const ConstructionOptions&) {
  return std::make_unique<CoactivationConstruction>();
}

}  // namespace moe
