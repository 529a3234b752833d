// SPDX-License-Identifier: Apache-2.0
#include "nn/router.h"

#include "autograd/recompute.h"
#include "core/rng.h"
#include "nn/hot_expert.h"
#include "ops/elementwise.h"
#include "ops/linear.h"

namespace moe {
namespace {

const RouterConfig& config_of(const ModelConfig& config, Router::Of what) {
  if (what == Router::Of::ffn) return config.moe;
  return config.attention_moe;
}

}  // namespace

Router::Router(const ModelConfig& config, const ParameterStore& parameters, Of what,
               std::int64_t layer, Communicator& world)
    : config_(config_of(config, what)), what_(what), layer_(layer), world_(world) {
  const auto parameter = [&](const char* rest) {
    return parameters[str("layers.", layer, what == Of::ffn ? ".router." : ".attention.router.",
                          rest)];
  };
  if (config_.gate == GateKind::linear) {
    linear_ = parameter("weight");
    if (config_.gate_bias) bias_ = parameter("bias");
  } else {
    hidden_ = parameter("hidden.weight");
    output_ = parameter("output.weight");
  }
  if (config_.gate_noise) noise_ = parameter("noise.weight");
  if (config_.unit_weights) weight_scale_ = parameter("weight_scale");
  if (config_.selection_bias) selection_bias_ = parameter("selection_bias");
}

RouterScores Router::scores(const Variable& x, const ForwardContext& context) const {
  const DType acc = accumulator(x.value.dtype());
  RouterScores l;
  if (config_.gate == GateKind::linear) {
    l.clean = ops::linear(x, linear_, acc);
    if (config_.gate_bias) l.clean = ops::add_row(l.clean, bias_);
  } else {
    l.clean = ops::linear(ops::tanh(ops::linear(x, hidden_, acc)), output_, acc);
  }
  l.noisy = l.clean;
  const double noise_factor = routing(context).options.noise_factor(context.step);
  if (!context.training || !config_.gate_noise || noise_factor == 0) return l;
  l.sigma =
      ops::scale(ops::softplus(ops::linear(x, noise_, acc), config_.noise_epsilon), noise_factor);
  std::vector<Philox> streams;
  for (const std::int64_t id : context.sequence_ids)
    streams.emplace_back(
        context.seed,
        what_ == Of::ffn ? RandomPurpose::gate_noise : RandomPurpose::attention_gate_noise,
        std::initializer_list<std::uint64_t>{std::uint64_t(context.step), std::uint64_t(id),
                                             std::uint64_t(layer_)});
  MOE_CHECK(std::int64_t(streams.size()) == context.sequences, "gate noise needs sequence ids");
  Tensor noise = empty_like(l.clean.value);
  backend(noise.device()).normal(noise, streams);
  l.noisy = ops::multiply_add(l.clean, l.sigma, noise);
  return l;
}

double Router::score_scale(const ForwardContext& context) const {
  const double scale = config_.score_scale[std::size_t(layer_)];
  if (config_.softmax_over_all || config_.unit_weights) return scale;
  return scale * (double(top_k(context)) / double(config_.top_k));
}

RouterOutput Router::forward(const Variable& x, const ForwardContext& context) const {
  MOE_CHECK(x.value.rows() == context.tokens(), "router: ", x.value.rows(), " rows for ",
            context.tokens(), " tokens");
  MOE_CHECK(!context.training || context.tokens() > 0, "training needs tokens on every rank");
  const RoutingContext& run = routing(context);
  RouterScores s = scores(x, context);
  if (context.training || run.statistics != nullptr || config_.selection_bias) {
    // Only the Switch loss learns through them.
    const bool learns = context.training && run.options.switch_top_k > 0;
    s.probabilities = ops::softmax(learns ? s.noisy : Variable::constant(s.noisy.value));
  }
  const ops::Routing chosen =
      ops::choose_experts(selection_scores(s, context), top_k(context), context.valid);
  RouterOutput out;
  out.weights = ops::router_weights(s.noisy, chosen.indices,
                                    config_.softmax_over_all || config_.unit_weights
                                        ? RouterWeights::softmax_of_all
                                        : RouterWeights::softmax_of_chosen);
  if (config_.unit_weights)
    out.weights = ops::unit_weights(out.weights, weight_scale_, chosen.indices);
  out.indices = within_capacity(chosen.indices, out.weights.value, context);
  RouterLosses losses;
  if (context.training) {
    // The smooth load is of a choice by noisy logits alone.
    const bool smooth_load = s.sigma.value.defined() && chosen.k < config_.experts &&
                             !config_.selection_bias && run.hot_expert.expert < 0;
    losses = router_losses(s, chosen, out.weights, smooth_load, context, run, layer_, world_);
    out.loss = losses.total();
  }
  if (run.statistics != nullptr && !recomputing())
    count(chosen.indices, out.indices, s.probabilities.value, losses, context);
  if (run.choices != nullptr && !recomputing())
    run.choices->push_back({layer_, out.indices, out.weights.value});
  return out;
}

Tensor Router::selection_scores(const RouterScores& scores, const ForwardContext& context) const {
  if (!config_.selection_bias)
    return with_hot_expert(scores.noisy.value, routing(context).hot_expert, context.length);
  return with_hot_expert(ops::add_row(Variable::constant(scores.probabilities.value),
                                      Variable::constant(selection_bias_.value))
                             .value,
                         routing(context).hot_expert, context.length);
}

void Router::count(const Tensor& chosen, const Tensor& placed, const Tensor& probabilities,
                   const RouterLosses& losses, const ForwardContext& context) const {
  const RouterStatistics& s = *routing(context).statistics;
  Backend& device = backend(chosen.device());
  Tensor pairs = Tensor::empty({1, config_.experts}, DType::i64, chosen.device());
  const auto add = [&](const Tensor& totals, const Tensor& x) {
    Tensor row = totals.slice(layer_, 1);
    device.add_into(row, x);
  };
  device.count_experts(pairs, chosen);
  add(s.chosen, pairs);
  device.count_experts(pairs, placed);
  add(s.placed, pairs);
  Tensor sums = Tensor::empty({1, config_.experts}, probabilities.dtype(), probabilities.device());
  device.segment_sum(sums, probabilities, context.valid);
  add(s.probabilities, sums);
  const Tensor of_layer = s.losses.slice(layer_, 1).view({3});
  const Variable* terms[] = {&losses.cv_squared, &losses.switch_top_k, &losses.z};
  for (std::int64_t i = 0; i < 3; ++i) {
    Tensor total = of_layer.slice(i, 1);
    if (terms[i]->value.defined()) device.add_into(total, terms[i]->value);
  }
}

Tensor Router::within_capacity(const Tensor& chosen, const Tensor& weights,
                               const ForwardContext& context) const {
  if (!context.training || routing(context).options.capacity_factor == 0) return chosen;
  std::vector<std::int64_t> capacities;
  for (const std::int64_t tokens : context.sequence_tokens)
    capacities.push_back(routing(context).options.capacity(tokens, chosen.cols(), config_.experts));
  return ops::drop_over_capacity(
      chosen, weights,
      Tensor::of<std::int64_t>({context.sequences}, capacities).to(chosen.device()));
}

}  // namespace moe
