// SPDX-License-Identifier: Apache-2.0
#include "split/gate_training.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "core/rng.h"
#include "kernels/backend.h"
#include "ops/elementwise.h"
#include "ops/linear.h"

namespace moe {
namespace {

constexpr std::int64_t kBatch = 1024;
constexpr int kSteps = 600;

Variable logits_of(const Variable& first, const Variable& output, const Variable& x) {
  const Variable y = ops::linear(x, first);
  return output.value.defined() ? ops::linear(ops::tanh(y), output) : y;
}

/// A parameter of the gate with what AdamW remembers of it.
struct Trained {
  Variable variable;
  Tensor m, v;

  explicit Trained(Tensor start)
      : variable(Variable::leaf(std::move(start))),
        m(Tensor::zeros(variable.value.shape(), DType::f32)),
        v(m.clone()) {}

  void step(double rate, int t) {
    AdamWStep s{.learning_rate = rate,
                .beta1 = 0.9,
                .beta2 = 0.99,
                .eps = 1e-8,
                .weight_decay = 0,
                .gradient_scale = 1,
                .correction1 = 1 - std::pow(0.9, t),
                .correction2 = 1 - std::pow(0.99, t)};
    backend(Device::cpu).adamw(variable.value, variable.value, m, v, variable.slot->grad, s);
    variable.slot->grad = {};
    variable.slot->owned = false;
  }
};

Tensor normal(Shape shape, double deviation, const Philox& random) {
  Tensor t = Tensor::empty(std::move(shape), DType::f32);
  for (std::int64_t i = 0; i < t.size(); ++i)
    t.data<float>()[i] = float(deviation * random.normal(std::uint64_t(i)));
  return t;
}

Tensor rows_of(const Tensor& x, const std::int64_t* rows, std::int64_t count) {
  Tensor y = Tensor::empty({count, x.cols()}, DType::f32);
  for (std::int64_t i = 0; i < count; ++i) y.slice(i, 1).copy_from(x.slice(rows[i], 1));
  return y;
}

}  // namespace

Tensor gate_logits(const GateWeights& gate, const Tensor& x) {
  const NoTape no_recording;
  const auto constant = Variable::constant;
  if (gate.hidden.defined())
    return logits_of(constant(gate.hidden), constant(gate.output), constant(x)).value;
  Variable y = ops::linear(constant(x), constant(gate.weight));
  if (gate.bias.defined()) y = ops::add_row(y, constant(gate.bias));
  return y.value;
}

Tensor best_experts(const Tensor& scores, std::int64_t k, double value) {
  Tensor values = Tensor::empty({scores.rows(), k}, DType::f32);
  Tensor chosen = Tensor::empty({scores.rows(), k}, DType::i32);
  Tensor best = Tensor::empty(scores.shape(), DType::f32);
  Backend& device = backend(Device::cpu);
  device.topk(values, chosen, scores, {});
  device.fill(values, value);
  device.scatter_columns(best, values, chosen);
  return best;
}

GateWeights train_gate(GateKind kind, const Tensor& x, const Tensor& targets, std::uint64_t seed,
                       std::uint64_t stream) {
  const std::int64_t hidden = x.cols(), experts = targets.cols(), tokens = x.rows();
  const Philox random(seed, RandomPurpose::split, {0x67617465, stream});
  Backend& device = backend(Device::cpu);
  const bool mlp = kind == GateKind::mlp;
  std::vector<Trained> parameters;
  if (mlp) {
    // Inside tanh's straight part for inputs of root mean square 1, and out of it unchanged.
    parameters.emplace_back(normal({experts, hidden}, 0.5 / std::sqrt(double(hidden)), random));
    Tensor identity = Tensor::zeros({experts, experts}, DType::f32);
    for (std::int64_t e = 0; e < experts; ++e) identity.data<float>()[e * experts + e] = 1;
    parameters.emplace_back(identity);
  } else {
    parameters.emplace_back(Tensor::zeros({experts, hidden}, DType::f32));
  }

  const double rate = 0.1 / std::sqrt(double(hidden));
  const std::int64_t batch = std::min(kBatch, tokens);
  std::vector<std::int64_t> order;
  std::size_t next = 0;
  for (int t = 1; t <= kSteps; ++t) {
    if (next + std::size_t(batch) > order.size()) {
      order = permutation(
          tokens, Philox(seed, RandomPurpose::split, {0x67617465, stream, std::uint64_t(t)}));
      next = 0;
    }
    const Tensor xb = rows_of(x, order.data() + next, batch);
    const Tensor tb = rows_of(targets, order.data() + next, batch);
    next += std::size_t(batch);
    Tape tape;
    const Variable logits = logits_of(
        parameters[0].variable, mlp ? parameters[1].variable : Variable{}, Variable::constant(xb));
    Tensor gradient = empty_like(tb);
    device.softmax_forward(gradient, logits.value);
    for (std::int64_t i = 0; i < gradient.size(); ++i)
      gradient.data<float>()[i] = (gradient.data<float>()[i] - tb.data<float>()[i]) / float(batch);
    tape.backward(std::span(&logits, 1), std::span(&gradient, 1));
    const double decay = 0.5 * (1 + std::cos(std::numbers::pi * double(t - 1) / kSteps));
    for (Trained& p : parameters) p.step(rate * decay, t);
  }
  GateWeights gate;
  (mlp ? gate.hidden : gate.weight) = parameters[0].variable.value;
  if (mlp) gate.output = parameters[1].variable.value;
  return gate;
}

}  // namespace moe
