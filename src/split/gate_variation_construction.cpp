// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "core/parallel.h"
#include "kernels/backend.h"
#include "split/activation_energy.h"
#include "split/clustering.h"
#include "split/construction.h"

namespace moe {
namespace {

constexpr std::int64_t kTokens = 6000;

/// silu(x gate^T)^2, whose root is what profiles() compares: f32 [rows of x, neurons].
Tensor squared_gate(const Tensor& x, const Tensor& gate) {
  Backend& device = backend(Device::cpu);
  Tensor g = Tensor::empty({x.rows(), gate.rows()}, DType::f32), one = empty_like(g);
  device.gemm(g, x, false, gate, true, 0);
  device.fill(one, 1);
  device.swiglu_forward(g, g, one);
  device.multiply(g, g, g);
  return g;
}

/// After ExpertWeaver (2026), of which no code is public: neurons whose gate is open nearly alike
/// for every token are shared; the others go together by the tokens that open them.
class GateVariationConstruction final : public Construction {
 public:
  CalibrationNeed need() const override { return CalibrationNeed::own_inputs; }
  bool shares() const override { return true; }

  LayerSplit split(const SplitContext& context, const FfnWeights& weights) const override {
    const LayerCalibration& text = own_text(context, "gate-variation");
    const Tensor x = sampled_rows(text.own, kTokens, *text.world);
    const Tensor squares = squared_gate(x, weights("gate"));
    std::vector<double> steadiness(std::size_t(context.neurons), 0);
    parallel_for(context.neurons, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n) {
        double sum = 0, square = 0;
        for (std::int64_t t = 0; t < squares.rows(); ++t) {
          const auto s = double(squares.data<float>()[t * squares.cols() + n]);
          sum += std::sqrt(s);
          square += s;
        }
        // mean^2 / mean square: 1 for a gate that never varies; falls as the variation grows.
        steadiness[std::size_t(n)] = square > 0 ? sum * sum / square : 0;
      }
    });
    const SharedAndRest found = take_shared(by_score(steadiness), context.shared_sizes);
    const Clustering clusters =
        balanced_kmeans(profiles(squares, found.rest), context.sizes, context.seed,
                        std::uint64_t(context.layer), 1, ClusterMetric::cosine);
    LayerSplit result;
    result.partition = {sets_of(found.rest, clusters.labels, context.experts()), found.shared};
    result.measures = {{"objective", clusters.objective}};
    return result;
  }
};

}  // namespace

std::unique_ptr<Construction> make_gate_variation_construction(const ConstructionOptions&) {
  return std::make_unique<GateVariationConstruction>();
}

}  // namespace moe
