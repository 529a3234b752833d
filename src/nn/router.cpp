// SPDX-License-Identifier: Apache-2.0
#include "nn/router.h"

#include "autograd/recompute.h"
#include "core/rng.h"
#include "nn/hot_expert.h"
#include "ops/elementwise.h"
#include "ops/exchange.h"
#include "ops/linear.h"
#include "ops/scalar.h"

namespace moe {
namespace {

std::string layer_name(std::int64_t layer, const char* rest) {
  return str("layers.", layer, ".router.", rest);
}

/// How many of each segment's tokens are not padding.
std::vector<double> valid_tokens(const ForwardContext& context, std::int64_t segments) {
  const std::int64_t n = context.tokens() / segments;
  std::vector<double> counts;
  counts.assign(std::size_t(segments), double(n));
  if (!context.valid.defined()) return counts;
  const Tensor valid = context.valid.to(Device::cpu);
  for (std::int64_t s = 0; s < segments; ++s) {
    std::int64_t count = 0;
    for (std::int64_t t = s * n; t < (s + 1) * n; ++t) count += valid.data<std::uint8_t>()[t] != 0;
    counts[std::size_t(s)] = double(count);
  }
  return counts;
}

Tensor on_device(const std::vector<double>& values, DType type, Device device) {
  Tensor host = Tensor::of<double>({std::int64_t(values.size())}, values), t = host;
  if (type != DType::f64) {
    t = Tensor::empty(host.shape(), type);
    backend(Device::cpu).cast(t, host);
  }
  return t.to(device);
}

Variable sum_of(const std::vector<Variable>& terms) {
  Variable total = terms.front();
  for (std::size_t i = 1; i < terms.size(); ++i) total = ops::add(total, terms[i]);
  return total;
}

}  // namespace

Router::Router(const ModelConfig& config, const ParameterStore& parameters, std::int64_t layer,
               Communicator& world)
    : moe_(config.moe), layer_(layer), world_(world) {
  if (moe_.gate == GateKind::linear) {
    linear_ = parameters[layer_name(layer, "weight")];
    if (moe_.gate_bias) bias_ = parameters[layer_name(layer, "bias")];
  } else {
    hidden_ = parameters[layer_name(layer, "hidden.weight")];
    output_ = parameters[layer_name(layer, "output.weight")];
  }
  if (moe_.gate_noise) noise_ = parameters[layer_name(layer, "noise.weight")];
}

Router::Logits Router::logits(const Variable& x, const ForwardContext& context) const {
  const DType acc = accumulator(x.value.dtype());
  Logits l;
  if (moe_.gate == GateKind::linear) {
    l.clean = ops::linear(x, linear_, acc);
    if (moe_.gate_bias) l.clean = ops::add_row(l.clean, bias_);
  } else {
    l.clean = ops::linear(ops::tanh(ops::linear(x, hidden_, acc)), output_, acc);
  }
  if (!context.training || !moe_.gate_noise) {
    l.noisy = l.clean;
    return l;
  }
  l.sigma = ops::softplus(ops::linear(x, noise_, acc), moe_.noise_epsilon);
  std::vector<Philox> streams;
  for (const std::int64_t id : context.sequence_ids)
    streams.emplace_back(
        context.seed, RandomPurpose::gate_noise,
        std::initializer_list<std::uint64_t>{std::uint64_t(context.step), std::uint64_t(id),
                                             std::uint64_t(layer_)});
  MOE_CHECK(std::int64_t(streams.size()) == context.sequences, "gate noise needs sequence ids");
  Tensor noise = empty_like(l.clean.value);
  backend(noise.device()).normal(noise, streams);
  l.noisy = ops::multiply_add(l.clean, l.sigma, noise);
  return l;
}

RouterOutput Router::forward(const Variable& x, const ForwardContext& context) const {
  MOE_CHECK(x.value.rows() == context.tokens(), "router: ", x.value.rows(), " rows for ",
            context.tokens(), " tokens");
  MOE_CHECK(!context.training || context.tokens() > 0, "training needs tokens on every rank");
  const Logits l = logits(x, context);
  RouterOutput out;
  out.routing =
      ops::choose_experts(with_hot_expert(l.noisy.value, context), moe_.top_k, context.valid);
  out.weights = ops::router_weights(
      l.noisy, out.routing.indices,
      moe_.softmax_over_all ? RouterWeights::softmax_of_all : RouterWeights::softmax_of_chosen);
  if (context.training) out.loss = losses(l, out, context);
  return out;
}

Variable Router::losses(const Logits& l, const RouterOutput& out,
                        const ForwardContext& context) const {
  const RouterLosses& want = context.router_losses;
  const Tensor& scores = l.noisy.value;
  const DType acc = scores.dtype();
  const Device device = scores.device();
  const bool whole_step = want.scope == BalanceScope::step;
  const std::int64_t segments = want.scope == BalanceScope::sequence ? context.sequences : 1;
  const auto statistics = [&](const Variable& per_token) {
    Variable sums = ops::segment_sum(per_token, segments, context.valid);
    return whole_step ? ops::all_reduce_sum(sums, world_) : sums;
  };
  // Weight of a segment: its share of the global batch's tokens. Statistics of the whole step stand
  // on every rank, so each rank counts 1/W of their loss.
  std::vector<double> counted = valid_tokens(context, segments);
  if (whole_step) {
    Tensor n = Tensor::of<double>({1}, counted);
    world_.all_reduce(n, ReduceOp::sum).wait();
    counted[0] = *n.data<double>() / world_.size();
  }
  const auto segment_weights = [&](double coefficient) {
    std::vector<double> w = counted;
    for (double& v : w) v *= coefficient * context.inverse_routed;
    return on_device(w, acc, device);
  };

  std::vector<Variable> terms;
  RouterStatistics value;
  const auto add_term = [&](Variable loss, double& slot) {
    slot += ops::scalar_value(loss.value);
    terms.push_back(std::move(loss));
  };
  if (want.cv_squared > 0) {
    const Tensor weights = segment_weights(want.cv_squared);
    const Variable importance =
        ops::scatter_columns(out.weights, out.routing.indices, moe_.experts);
    add_term(ops::cv_squared(statistics(importance), weights), value.cv_squared);
    Variable load;
    if (l.sigma.value.defined() && moe_.top_k < moe_.experts) {
      load = ops::noisy_load(l.clean, l.noisy, l.sigma, out.routing, want.v1_load_formula);
    } else {  // without noise the load is a count and has no gradient
      Tensor ones = empty_like(out.weights.value);
      backend(device).fill(ones, 1);
      load = ops::scatter_columns(Variable::constant(ones), out.routing.indices, moe_.experts);
    }
    add_term(ops::cv_squared(statistics(load), weights), value.cv_squared);
  }
  if (want.switch_top_k > 0) {
    Tensor counts = Tensor::empty({segments, moe_.experts}, DType::i64, device);
    backend(device).count_experts(counts, out.routing.indices);
    if (whole_step) world_.all_reduce(counts, ReduceOp::sum).wait();
    add_term(ops::switch_loss(statistics(ops::softmax(l.noisy)), counts,
                              segment_weights(want.switch_top_k)),
             value.switch_top_k);
  }
  if (want.z > 0)
    add_term(ops::z_loss(l.clean, context.valid, want.z * context.inverse_routed), value.z);

  if (context.statistics != nullptr && !recomputing()) {
    RouterStatistics& s = (*context.statistics)[std::size_t(layer_)];
    s.cv_squared += value.cv_squared;
    s.switch_top_k += value.switch_top_k;
    s.z += value.z;
  }
  return terms.empty() ? Variable{} : sum_of(terms);
}

}  // namespace moe
