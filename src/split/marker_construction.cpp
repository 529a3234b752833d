// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/parallel.h"
#include "split/activation_energy.h"
#include "split/balanced_assignment.h"
#include "split/clustering.h"
#include "split/construction.h"
#include "split/dense_layer.h"

namespace moe {
namespace {

constexpr std::int64_t kTokens = 6000;  // that neurons are compared on
constexpr std::int64_t kMarkedShare = 20;

/// For each neuron the tokens on which it is among the strongest, one bit a token.
class Markers {
 public:
  Markers(const Tensor& activations, std::int64_t marked)
      : tokens_(activations.rows()),
        words_((tokens_ + 63) / 64),
        bits_(std::size_t(activations.cols() * words_), 0) {
    const std::int64_t neurons = activations.cols();
    std::vector<std::int64_t> order(static_cast<std::size_t>(neurons));
    for (std::int64_t t = 0; t < tokens_; ++t) {
      const float* a = activations.data<float>() + t * neurons;
      std::iota(order.begin(), order.end(), 0);
      std::nth_element(order.begin(), order.begin() + marked - 1, order.end(),
                       [a](std::int64_t i, std::int64_t j) {
                         const float x = std::fabs(a[i]), y = std::fabs(a[j]);
                         return x != y ? x > y : i < j;
                       });
      for (std::int64_t i = 0; i < marked; ++i)
        bits_[std::size_t(order[std::size_t(i)] * words_ + t / 64)] |= std::uint64_t{1} << (t % 64);
    }
  }

  std::int64_t count(std::int64_t neuron) const {
    const std::uint64_t* a = row(neuron);
    return std::accumulate(a, a + words_, std::int64_t{0}, [](std::int64_t sum, std::uint64_t w) {
      return sum + std::popcount(w);
    });
  }
  std::int64_t distance(std::int64_t a, std::int64_t b) const {
    std::int64_t sum = 0;
    for (std::int64_t w = 0; w < words_; ++w) sum += std::popcount(row(a)[w] ^ row(b)[w]);
    return sum;
  }
  bool marked(std::int64_t neuron, std::int64_t token) const {
    return (row(neuron)[token / 64] >> (token % 64) & 1) != 0;
  }
  std::int64_t tokens() const { return tokens_; }

 private:
  const std::uint64_t* row(std::int64_t neuron) const { return bits_.data() + neuron * words_; }
  std::int64_t tokens_, words_;
  std::vector<std::uint64_t> bits_;
};

/// The neuron of a set whose marks are nearest (L1) to the set's mean.
std::int64_t nearest_to_mean(const std::vector<std::int64_t>& set, const Markers& markers) {
  std::vector<double> mean(std::size_t(markers.tokens()), 0);
  for (const std::int64_t n : set)
    for (std::int64_t t = 0; t < markers.tokens(); ++t)
      mean[std::size_t(t)] += markers.marked(n, t) ? 1 / double(set.size()) : 0;
  std::int64_t best = set.front();
  double least = std::numeric_limits<double>::max();
  for (const std::int64_t n : set) {
    double sum = 0;
    for (std::int64_t t = 0; t < markers.tokens(); ++t)
      sum += std::fabs((markers.marked(n, t) ? 1.0 : 0.0) - mean[std::size_t(t)]);
    if (sum < least) least = sum, best = n;
  }
  return best;
}

/// CMoE (Pei et al. 2025): neurons that are among the strongest on the most tokens are shared;
/// those that are so on the same tokens as one of the next ones form an expert with it.
class MarkerConstruction final : public Construction {
 public:
  CalibrationNeed need() const override { return CalibrationNeed::own_inputs; }
  bool shares() const override { return true; }

  LayerSplit split(const SplitContext& context, const FfnWeights& weights) const override {
    const LayerCalibration& text = own_text(context, "cmoe");
    Tensor x = sampled_rows(text.own, kTokens, *text.world).clone();
    Tensor gate = weights("gate"), up = weights("up");
    for (Tensor* rows : {&x, &gate, &up}) normalise_rows(*rows);
    const Markers markers(ffn_activations(x, gate, up),
                          std::max<std::int64_t>(1, context.neurons / kMarkedShare));
    std::vector<double> rate;
    for (std::int64_t n = 0; n < context.neurons; ++n) rate.push_back(double(markers.count(n)));
    const std::vector<std::int64_t> order = by_score(rate);
    const SharedAndRest found = take_shared(order, context.shared_sizes);
    const auto experts = std::size_t(context.experts());
    const std::int64_t* centres =
        order.data() +
        std::accumulate(context.shared_sizes.begin(), context.shared_sizes.end(), std::int64_t{0});
    std::vector<std::int64_t> costs(found.rest.size() * experts), prices(experts, 0);
    parallel_for(std::int64_t(found.rest.size()), 64, [&](std::int64_t begin, std::int64_t end) {
      for (auto i = std::size_t(begin); i < std::size_t(end); ++i)
        for (std::size_t e = 0; e < experts; ++e)
          costs[i * experts + e] = markers.distance(found.rest[i], centres[e]);
    });
    LayerSplit result;
    result.partition = {
        sets_of(found.rest, balanced_assignment(costs, context.sizes, prices), context.experts()),
        found.shared};
    for (const auto& set : result.partition.experts)
      result.representatives.push_back(nearest_to_mean(set, markers));
    return result;
  }
};

}  // namespace

std::unique_ptr<Construction> make_marker_construction(const ConstructionOptions&) {
  return std::make_unique<MarkerConstruction>();
}

}  // namespace moe
