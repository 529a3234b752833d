// SPDX-License-Identifier: Apache-2.0
#include "nn/moe_layer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "comm/watchdog.h"
#include "core/parallel.h"
#include "kernels/backend.h"
#include "ops/elementwise.h"
#include "ops/experts.h"
#include "ops/permute.h"
#include "ops/routing.h"

namespace moe {
namespace {

using Counts = std::vector<std::int64_t>;

Counts offsets_of(const Counts& counts) {
  Counts offsets(counts.size() + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), offsets.begin() + 1);
  return offsets;
}

}  // namespace

DenseFfn::DenseFfn(const ParameterStore& parameters, std::int64_t layer)
    : gate_(parameters[str("layers.", layer, ".ffn.gate.weight")]),
      up_(parameters[str("layers.", layer, ".ffn.up.weight")]),
      down_(parameters[str("layers.", layer, ".ffn.down.weight")]) {}

SublayerOutput DenseFfn::forward(const Variable& x) const {
  return {ops::expert_ffn(x, gate_, up_, down_, {0, x.value.rows()}, {0, gate_.value.rows()}), {}};
}

MoeLayer::MoeLayer(const ModelConfig& config, const ParameterStore& parameters, std::int64_t layer,
                   const ProcessGrid& grid)
    : layer_(layer),
      experts_(config.moe.experts),
      local_experts_(parameters.local_experts()),
      chunks_(experts_, grid.ep(), grid.exchange().chunks),
      group_(grid.expert_group()),
      router_(config, parameters, Router::Of::ffn, layer, grid.world()),
      gate_(parameters[str("layers.", layer, ".experts.gate.weight")]),
      up_(parameters[str("layers.", layer, ".experts.up.weight")]),
      down_(parameters[str("layers.", layer, ".experts.down.weight")]),
      order_(chunks_.order().to(gate_.value.device())) {
  const Counts sizes = config.layer_expert_sizes(layer);
  const auto own = sizes.begin() + parameters.first_expert();
  neuron_offsets_ = offsets_of(Counts(own, own + local_experts_));
  if (config.moe.expert_bias) bias_ = parameters[str("layers.", layer, ".experts.bias")];
  if (!config.layer_shared_sizes(layer).empty()) shared_.emplace(config, parameters, layer);
}

SublayerOutput MoeLayer::forward(const Variable& x, const ForwardContext& context) const {
  const auto layer = std::int32_t(layer_);
  set_phase("route", layer);
  if (context.routing.outputs != nullptr)
    context.routing.outputs->push_back(outputs_of_all(x.value, context.valid));
  const RouterOutput routed = router_.forward(x, context);
  const ops::Permutation sorted = ops::sort_by_expert(routed.indices, experts_, order_);
  const Variable rows = run_experts(ops::dispatch(x, sorted), sorted.counts);
  Variable y = ops::combine(rows, routed.weights, sorted, router_.score_scale(context));
  if (bias_.value.defined())
    y = ops::add(y, ops::weighted_bias(routed.weights, routed.indices, bias_,
                                       router_.score_scale(context), y.value.dtype()));
  if (shared_) y = ops::add(y, shared_->forward(x));
  return {y, routed.loss};
}

Variable MoeLayer::run_experts(const Variable& sorted, const Counts& counts) const {
  if (group_.size() == 1)
    return ops::expert_ffn(sorted, gate_, up_, down_, offsets_of(counts), neuron_offsets_);

  set_phase("exchange counts", std::int32_t(layer_));
  return ops::exchange_experts(sorted, gate_, up_, down_, neuron_offsets_, chunks_,
                               ops::exchange_counts(counts, group_), group_, std::int32_t(layer_));
}

ExpertOutputs MoeLayer::outputs_of_all(const Tensor& x, const Tensor& valid) const {
  const NoTape no_recording;
  const auto on_cpu = [](const Tensor& t) {
    Tensor wide = Tensor::empty(t.shape(), DType::f32, t.device());
    backend(t.device()).cast(wide, t);
    return wide.to(Device::cpu);
  };
  const Tensor inputs = on_cpu(x), real = valid.defined() ? valid.to(Device::cpu) : Tensor();
  std::vector<std::int32_t> tokens;
  for (std::int64_t t = 0; t < x.rows(); ++t)
    if (!real.defined() || real.data<std::uint8_t>()[t] != 0) tokens.push_back(std::int32_t(t));
  const auto n = std::int64_t(tokens.size()), hidden = x.cols();
  std::vector<std::int32_t> everyone(std::size_t(x.rows() * experts_), -1);
  for (const std::int32_t t : tokens)
    for (std::int64_t e = 0; e < experts_; ++e)
      everyone[std::size_t(t * experts_ + e)] = std::int32_t(e);
  const ops::Permutation sorted = ops::sort_by_expert(
      Tensor::of<std::int32_t>({x.rows(), experts_}, everyone).to(x.device()), experts_, order_);
  const Tensor rows =
      on_cpu(run_experts(ops::dispatch(Variable::constant(x), sorted), sorted.counts).value);
  const Tensor places = sorted.slot_to_row.to(Device::cpu);
  const Tensor biases = bias_.value.defined() ? on_cpu(bias_.value) : Tensor();

  ExpertOutputs out{layer_, Tensor::empty({n, hidden}, DType::f32),
                    Tensor::empty({n, experts_}, DType::f32)};
  parallel_for(n, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t t = tokens[std::size_t(i)];
      std::copy_n(inputs.data<float>() + t * hidden, hidden, out.x.data<float>() + i * hidden);
      for (std::int64_t e = 0; e < experts_; ++e) {
        const std::int64_t row = places.data<std::int32_t>()[t * experts_ + e];
        const float* y = rows.data<float>() + row * hidden;
        const float* b = biases.defined() ? biases.data<float>() + e * hidden : nullptr;
        double squares = 0;
        for (std::int64_t j = 0; j < hidden; ++j) {
          const double v = double(y[j]) + (b != nullptr ? double(b[j]) : 0);
          squares += v * v;
        }
        out.norms.data<float>()[i * experts_ + e] = float(std::sqrt(squares));
      }
    }
  });
  return out;
}

}  // namespace moe
