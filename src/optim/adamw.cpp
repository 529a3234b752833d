// SPDX-License-Identifier: Apache-2.0
#include "optim/adamw.h"

#include <cmath>

#include "kernels/backend.h"

namespace moe {

AdamW::AdamW(ParameterStore& parameters, const TrainConfig::Optimizer& options)
    : parameters_(parameters), options_(options) {
  MemoryScope scope(MemoryKind::optimizer);
  const DType acc = accumulator(parameters.dtype());
  for (Parameter& p : parameters.all()) {
    const Tensor& weight = p.variable.value;
    State s;
    s.master = weight;
    if (weight.dtype() != acc) {
      s.master = Tensor::empty(weight.shape(), acc, weight.device());
      backend(weight.device()).cast(s.master, weight);
    }
    s.m = Tensor::zeros(weight.shape(), acc, weight.device());
    s.v = Tensor::zeros(weight.shape(), acc, weight.device());
    states_.push_back(std::move(s));
  }
}

void AdamW::load_masters(const ParameterRows& rows) {
  for (std::size_t i = 0; i < states_.size(); ++i) {
    const Parameter& p = parameters_.all()[i];
    if (states_[i].master.dtype() == p.variable.value.dtype()) continue;
    const Tensor source = rows(p.name(), p.first_row, p.rows());
    backend(source.device()).cast(states_[i].master, source);
  }
}

void AdamW::step(const GradientBuckets& gradients, double learning_rate, double gradient_scale) {
  ++steps_;
  AdamWStep s;
  s.learning_rate = learning_rate;
  s.beta1 = options_.beta1;
  s.beta2 = options_.beta2;
  s.eps = options_.eps;
  s.gradient_scale = gradient_scale;
  s.correction1 = 1 - std::pow(options_.beta1, double(steps_));
  s.correction2 = 1 - std::pow(options_.beta2, double(steps_));
  for (std::size_t i = 0; i < states_.size(); ++i) {
    Parameter& p = parameters_.all()[i];
    s.weight_decay = p.spec.decay ? options_.weight_decay : 0;
    backend(p.variable.value.device())
        .adamw(p.variable.value, states_[i].master, states_[i].m, states_[i].v,
               gradients.gradient(i), s);
  }
}

double clip_factor(double norm, double clip_norm) {
  return clip_norm > 0 && norm > clip_norm ? clip_norm / norm : 1;
}

}  // namespace moe
