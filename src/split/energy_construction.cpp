// SPDX-License-Identifier: Apache-2.0
#include <numeric>

#include "core/error.h"
#include "split/activation_energy.h"
#include "split/construction.h"
#include "split/expert_sum.h"

namespace moe {
namespace {

FfnMatrices matrices_of(const FfnWeights& weights) {
  return {weights("gate"), weights("up"), weights("down")};
}

/// Energy of each neuron over all ranks' tokens.
std::vector<double> energy_of(const SplitContext& context, const FfnMatrices& ffn,
                              std::string_view method) {
  const LayerCalibration& text = own_text(context, method);
  return column_sums(activation_energy(text.own, ffn), *text.world);
}

/// The first experts take the neurons that say most, shared ones before the others; the rest is
/// left out. With one expert: static pruning.
class EnergyConstruction final : public Construction {
 public:
  Coverage coverage() const override { return Coverage::any; }
  CalibrationNeed need() const override { return CalibrationNeed::own_inputs; }
  bool shares() const override { return true; }

  LayerSplit split(const SplitContext& context, const FfnWeights& weights) const override {
    const std::vector<double> energy = energy_of(context, matrices_of(weights), "energy");
    const std::vector<std::int64_t> order = by_score(energy);
    const auto sum = [](const std::vector<std::int64_t>& sizes) {
      return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
    };
    const std::int64_t shared = sum(context.shared_sizes), routed = sum(context.sizes);
    MOE_REQUIRE(shared + routed <= context.neurons, "experts of ", shared + routed,
                " neurons, the FFN has ", context.neurons);
    const auto routed_begin = order.begin() + shared;
    LayerSplit result;
    result.partition = {consecutive_sets({routed_begin, routed_begin + routed}, context.sizes),
                        consecutive_sets({order.begin(), routed_begin}, context.shared_sizes)};
    double kept = 0;
    for (std::int64_t i = 0; i < shared + routed; ++i)
      kept += energy[std::size_t(order[std::size_t(i)])];
    result.measures = {
        {"energy_kept", kept / std::accumulate(energy.begin(), energy.end(), 1e-30)}};
    return result;
  }
};

/// Shared experts of the neurons with the most energy; another construction divides the rest.
class SharedByEnergy final : public Construction {
 public:
  explicit SharedByEnergy(std::unique_ptr<Construction> of) : of_(std::move(of)) {}

  Coverage coverage() const override { return of_->coverage(); }
  CalibrationNeed need() const override { return of_->need(); }
  bool shares() const override { return true; }
  std::vector<std::int64_t> sizes(std::int64_t neurons, std::int64_t experts) const override {
    return of_->sizes(neurons, experts);
  }

  LayerSplit split(const SplitContext& context, const FfnWeights& weights) const override {
    SharedAndRest found =
        take_shared(by_score(energy_of(context, matrices_of(weights), "shared experts by energy")),
                    context.shared_sizes);
    SplitContext inner = context;
    inner.neurons = std::int64_t(found.rest.size());
    inner.shared_sizes.clear();
    LayerSplit result = of_->split(inner, [&](std::string_view part) {
      const Tensor all = weights(part);
      const Tensor rows = Tensor::empty({inner.neurons, all.cols()}, all.dtype());
      for (std::int64_t i = 0; i < inner.neurons; ++i)
        rows.slice(i, 1).copy_from(all.slice(found.rest[std::size_t(i)], 1));
      return rows;
    });
    for (auto& expert : result.partition.experts)
      for (std::int64_t& n : expert) n = found.rest[std::size_t(n)];
    result.partition.shared = std::move(found.shared);
    return result;
  }

 private:
  std::unique_ptr<Construction> of_;
};

}  // namespace

std::unique_ptr<Construction> make_energy_construction(const ConstructionOptions&) {
  return std::make_unique<EnergyConstruction>();
}

std::unique_ptr<Construction> share_by_energy(std::unique_ptr<Construction> construction) {
  return std::make_unique<SharedByEnergy>(std::move(construction));
}

}  // namespace moe
