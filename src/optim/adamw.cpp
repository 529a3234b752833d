// SPDX-License-Identifier: Apache-2.0
#include "optim/adamw.h"

#include <cmath>

#include "kernels/backend.h"

namespace moe {

AdamW::AdamW(ParameterStore& parameters, const BucketPlan& plan,
             const TrainConfig::Optimizer& options)
    : parameters_(parameters), buckets_(plan.buckets().size()), options_(options) {
  MemoryScope scope(MemoryKind::optimizer);
  const DType acc = accumulator(parameters.dtype());
  for (const OwnedRows& rows : plan.owned()) {
    const Tensor own = weight(rows);
    State s;
    s.rows = rows;
    s.master = own;
    if (own.dtype() != acc) {
      s.master = Tensor::empty(own.shape(), acc, own.device());
      backend(own.device()).cast(s.master, own);
    }
    s.m = Tensor::zeros(own.shape(), acc, own.device());
    s.v = Tensor::zeros(own.shape(), acc, own.device());
    s.rate = options.rates[std::size_t(family_of(parameters.all()[rows.parameter].name()))];
    states_.push_back(std::move(s));
  }
}

Tensor AdamW::weight(const OwnedRows& rows) const {
  return parameters_.all()[rows.parameter].variable.value.slice(rows.first, rows.rows);
}

void AdamW::load_masters(const ParameterRows& rows) {
  for (State& s : states_) {
    const Parameter& p = parameters_.all()[s.rows.parameter];
    if (s.master.dtype() == p.variable.value.dtype()) continue;
    const Tensor source = rows(p.name(), p.first_row + s.rows.first, s.rows.rows);
    backend(s.master.device()).cast(s.master, source.to(s.master.device()));
  }
}

void AdamW::step(const GradientBuckets& gradients, double learning_rate, double gradient_scale,
                 const std::function<void(std::size_t bucket)>& updated) {
  ++steps_;
  AdamWStep step;
  step.beta1 = options_.beta1;
  step.beta2 = options_.beta2;
  step.eps = options_.eps;
  step.gradient_scale = gradient_scale;
  step.correction1 = 1 - std::pow(options_.beta1, double(steps_));
  step.correction2 = 1 - std::pow(options_.beta2, double(steps_));
  std::size_t next = 0;
  for (std::size_t bucket = buckets_; bucket-- > 0;) {
    for (; next < states_.size() && states_[next].rows.bucket == bucket; ++next) {
      State& s = states_[next];
      Tensor w = weight(s.rows);
      const Tensor gradient = gradients.gradient(s.rows.parameter).slice(s.rows.first, s.rows.rows);
      step.learning_rate = learning_rate * s.rate;
      step.weight_decay =
          parameters_.all()[s.rows.parameter].spec.decay ? options_.weight_decay : 0;
      backend(w.device()).adamw(w, s.master, s.m, s.v, gradient, step);
    }
    if (updated) updated(bucket);
  }
}

void AdamW::replace(std::size_t parameter, const Tensor& values) {
  Tensor w = parameters_.all()[parameter].variable.value;
  Backend& device = backend(w.device());
  device.cast(w, values);
  for (State& s : states_) {
    if (s.rows.parameter != parameter) continue;
    s.master.copy_from(values.slice(s.rows.first, s.rows.rows));
    device.fill(s.m, 0);
    device.fill(s.v, 0);
  }
}

double clip_factor(double norm, double clip_norm) {
  return clip_norm > 0 && norm > clip_norm ? clip_norm / norm : 1;
}

}  // namespace moe
