// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "config/train_config.h"
#include "nn/parameter_store.h"
#include "optim/gradients.h"

namespace moe {

/// AdamW (Loshchilov & Hutter 2019) over the rows that this rank owns. bf16 weights have f32
/// masters. The learning rate of a parameter has the factor of its family
/// (TrainConfig::Optimizer::rates), also in its decay. Weight decay applies to every parameter but
/// the norms and biases.
class AdamW {
 public:
  struct State {
    OwnedRows rows;
    Tensor master;    // f32, or f64 for an f64 model; the weight's own rows unless that is bf16
    Tensor m, v;      // first and second moment, of master's type
    double rate = 1;  // factor on the learning rate
  };

  /// Masters start as the weights are; load_masters() gives them back the bits that bf16 weights
  /// dropped. Keeps a reference to the parameters.
  AdamW(ParameterStore& parameters, const BucketPlan& plan, const TrainConfig::Optimizer& options);
  void load_masters(const ParameterRows& rows);

  /// One update with every gradient multiplied by gradient_scale (the clip factor), bucket after
  /// bucket in the order of the forward pass. updated(bucket) is called when a bucket's are done.
  void step(const GradientBuckets& gradients, double learning_rate, double gradient_scale,
            const std::function<void(std::size_t bucket)>& updated = {});

  /// Gives a parameter other values, with which its moments begin anew. values: of its rows on this
  /// rank, in the masters' type.
  void replace(std::size_t parameter, const Tensor& values);

  /// Updates done; part of a checkpoint together with the states.
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  /// As BucketPlan::owned().
  std::vector<State>& states() { return states_; }

 private:
  Tensor weight(const OwnedRows& rows) const;

  ParameterStore& parameters_;
  std::size_t buckets_;
  TrainConfig::Optimizer options_;
  std::vector<State> states_;
  std::int64_t steps_ = 0;
};

/// The factor that brings a gradient of this norm down to clip_norm; 1 when it is below, or when
/// clip_norm is 0 (off).
double clip_factor(double norm, double clip_norm);

}  // namespace moe
