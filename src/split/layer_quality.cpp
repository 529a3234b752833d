// SPDX-License-Identifier: Apache-2.0
#include "split/layer_quality.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/backend.h"
#include "split/dense_layer.h"

namespace moe {
namespace {

constexpr std::int64_t kChunk = 512;  // tokens whose activations exist at once

/// Sums over tokens of what one output channel needs.
struct Channel {
  double target = 0, target_squared = 0, routed = 0, routed_squared = 0;
};

double mass_of(const float* h, const std::vector<std::int64_t>& neurons) {
  double mass = 0;
  for (const std::int64_t n : neurons) mass += double(std::fabs(h[n]));
  return mass;
}

}  // namespace

TokenRouting route(const Tensor& logits, std::int64_t k, const RouterConfig& router) {
  Backend& device = backend(Device::cpu);
  Tensor values = Tensor::empty({logits.rows(), k}, logits.dtype());
  TokenRouting routing{Tensor::empty({logits.rows(), k}, DType::i32), empty_like(values)};
  device.topk(values, routing.experts, logits, {});
  if (router.unit_weights)
    device.fill(routing.weights, 1);
  else
    device.router_weights_forward(
        routing.weights, logits, routing.experts,
        router.softmax_over_all ? RouterWeights::softmax_of_all : RouterWeights::softmax_of_chosen);
  return routing;
}

LayerQuality measure_layer(const Tensor& inputs, const FfnMatrices& ffn, const Partition& partition,
                           const TokenRouting& routing, double scale) {
  Backend& device = backend(Device::cpu);
  const std::int64_t neurons = ffn.gate.rows(), hidden = inputs.cols(), tokens = inputs.rows();
  const std::int64_t k = routing.experts.cols();
  const auto experts = std::int64_t(partition.experts.size());
  LayerQuality q;
  q.load.assign(std::size_t(experts), 0);
  std::vector<Channel> channels{std::size_t(hidden)};
  double dense_squared = 0, target_squared = 0, cross = 0, routed_squared = 0;
  double mass = 0, chosen_mass = 0, best_mass = 0;

  for (std::int64_t first = 0; first < tokens; first += kChunk) {
    const std::int64_t n = std::min(kChunk, tokens - first);
    const Tensor h = ffn_activations(inputs.slice(first, n), ffn.gate, ffn.up);
    // The activations as the routed experts weigh them, and as the shared ones do.
    Tensor routed_h = Tensor::zeros({n, neurons}, DType::f32), shared_h = routed_h.clone();
    std::vector<double> per_token(std::size_t(3 * n));
    parallel_for(n, 16, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> expert_mass(static_cast<std::size_t>(experts));
      std::vector<std::uint8_t> seen(static_cast<std::size_t>(neurons));
      for (std::int64_t t = begin; t < end; ++t) {
        const float* a = h.data<float>() + t * neurons;
        float* r = routed_h.data<float>() + t * neurons;
        float* s = shared_h.data<float>() + t * neurons;
        std::fill(seen.begin(), seen.end(), std::uint8_t{0});
        double shared_mass = 0, reached = 0, all = 0;
        for (std::int64_t i = 0; i < neurons; ++i) all += double(std::fabs(a[i]));
        for (const auto& expert : partition.shared)
          for (const std::int64_t i : expert) s[i] += a[i], seen[std::size_t(i)] = 1;
        for (std::int64_t j = 0; j < k; ++j) {
          const std::int64_t at = (first + t) * k + j;
          const auto e = std::size_t(routing.experts.data<std::int32_t>()[at]);
          const float w = routing.weights.data<float>()[at];
          for (const std::int64_t i : partition.experts[e])
            r[i] += w * a[i], seen[std::size_t(i)] = 1;
        }
        for (std::int64_t i = 0; i < neurons; ++i)
          if (seen[std::size_t(i)] != 0) reached += double(std::fabs(a[i]));
        for (const auto& expert : partition.shared) shared_mass += mass_of(a, expert);
        for (std::int64_t e = 0; e < experts; ++e)
          expert_mass[std::size_t(e)] = mass_of(a, partition.experts[std::size_t(e)]);
        std::partial_sort(expert_mass.begin(), expert_mass.begin() + k, expert_mass.end(),
                          std::greater<>());
        double* out = per_token.data() + 3 * t;
        out[0] = all;
        out[1] = reached;
        out[2] = std::min(
            all, std::accumulate(expert_mass.begin(), expert_mass.begin() + k, shared_mass));
      }
    });
    for (std::int64_t t = 0; t < n; ++t) {
      mass += per_token[std::size_t(3 * t)];
      chosen_mass += per_token[std::size_t(3 * t + 1)];
      best_mass += per_token[std::size_t(3 * t + 2)];
      for (std::int64_t j = 0; j < k; ++j)
        ++q.load[std::size_t(routing.experts.data<std::int32_t>()[(first + t) * k + j])];
    }

    Tensor dense = Tensor::empty({n, hidden}, DType::f32), routed = empty_like(dense),
           shared = empty_like(dense);
    device.gemm(dense, h, false, ffn.down, false, 0);
    device.gemm(routed, routed_h, false, ffn.down, false, 0);
    device.gemm(shared, shared_h, false, ffn.down, false, 0);
    std::vector<double> sums(std::size_t(4 * hidden), 0.0);
    parallel_for(hidden, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = 0; t < n; ++t)
        for (std::int64_t c = begin; c < end; ++c) {
          const std::int64_t at = t * hidden + c;
          const double y = double(dense.data<float>()[at]), m = double(routed.data<float>()[at]);
          const double target = y - double(shared.data<float>()[at]);
          double* s = sums.data() + 4 * c;
          s[0] += y * y;
          s[1] += target * target;
          s[2] += target * m;
          s[3] += m * m;
          channels[std::size_t(c)].target += target;
          channels[std::size_t(c)].routed += m;
        }
    });
    for (std::int64_t c = 0; c < hidden; ++c) {
      const double* s = sums.data() + 4 * c;
      dense_squared += s[0];
      target_squared += s[1];
      cross += s[2];
      routed_squared += s[3];
      channels[std::size_t(c)].target_squared += s[1];
      channels[std::size_t(c)].routed_squared += s[3];
    }
  }

  const auto error = [&](double f) {
    const double squared = target_squared - 2 * f * cross + f * f * routed_squared;
    return dense_squared > 0 ? std::sqrt(std::max(squared, 0.0) / dense_squared) : 0;
  };
  q.best_scale = routed_squared > 0 ? cross / routed_squared : 1;
  q.error = error(scale);
  q.best_error = error(q.best_scale);
  q.recall = mass > 0 ? chosen_mass / mass : 1;
  q.best_recall = mass > 0 ? best_mass / mass : 1;
  for (const Channel& c : channels) {
    const auto n = double(tokens);
    const double wanted = c.target_squared - c.target * c.target / n;
    const double got = (c.routed_squared - c.routed * c.routed / n) * scale * scale;
    q.channel_scale.push_back(got > 0 && wanted > 0 ? std::sqrt(wanted / got) : 1);
  }
  return q;
}

Tensor activation_mass(const Tensor& inputs, const FfnMatrices& ffn, const NeuronSets& experts) {
  const auto e = std::int64_t(experts.size());
  Tensor mass = Tensor::empty({inputs.rows(), e}, DType::f32);
  for (std::int64_t first = 0; first < inputs.rows(); first += kChunk) {
    const std::int64_t n = std::min(kChunk, inputs.rows() - first);
    const Tensor h = ffn_activations(inputs.slice(first, n), ffn.gate, ffn.up);
    parallel_for(n, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t)
        for (std::int64_t i = 0; i < e; ++i)
          mass.data<float>()[(first + t) * e + i] =
              float(mass_of(h.data<float>() + t * h.cols(), experts[std::size_t(i)]));
    });
  }
  return mass;
}

double neuron_overlap(const NeuronSets& experts) {
  double total = 0;
  std::int64_t pairs = 0;
  std::vector<std::int64_t> both;
  for (std::size_t a = 0; a < experts.size(); ++a)
    for (std::size_t b = a + 1; b < experts.size(); ++b, ++pairs) {
      both.clear();
      std::set_intersection(experts[a].begin(), experts[a].end(), experts[b].begin(),
                            experts[b].end(), std::back_inserter(both));
      total += double(both.size()) / double(experts[a].size() + experts[b].size() - both.size());
    }
  return pairs > 0 ? total / double(pairs) : 0;
}

}  // namespace moe
