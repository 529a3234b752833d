// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "comm/process_grid.h"
#include "nn/parameter_store.h"
#include "optim/buckets.h"

namespace moe {

/// The gradients of a step, in flat buckets that are summed over ranks while backward still runs.
///
/// One rule (docs/parallelism.md): losses are divided by global counts before backward, so every
/// reduction is a plain sum over the group that replicates the parameter: the world, or the
/// expert's data group. Buckets leave in the plan's order on every rank. Where the plan is sharded,
/// the sum reaches each element's owner alone.
class GradientBuckets {
 public:
  /// Keeps references. Gradients are f32 (f64 for an f64 model); `transport` is what a sharded plan
  /// sends them as: that type, or bf16, which is summed in f32.
  GradientBuckets(ParameterStore& parameters, const BucketPlan& plan, const ProcessGrid& grid,
                  DType transport);
  ~GradientBuckets();

  /// Forgets the gradients of the previous step.
  void begin_step();
  /// From here on a bucket leaves as soon as the last of its gradients is there.
  void begin_last_micro_batch();
  /// Sends what has not left (parameters without gradient count as zero) and waits for all.
  void finish();

  /// The norm over all parameters of the model, each counted once. Collective; after finish().
  double global_norm() const;

  /// The gradient of parameter i of the store, undefined for one that is not trained; after
  /// finish(). Sharded: valid in the rows that this rank owns.
  const Tensor& gradient(std::size_t i) const { return gradients_[i]; }
  /// Makes all rows of all gradients valid, for those who look at them. Collective; after finish().
  void gather();

 private:
  Tensor values(std::size_t bucket) const;
  Tensor own_values(std::size_t bucket) const;
  void ready(std::size_t bucket);
  void send_in_order();
  void send(std::size_t bucket);

  ParameterStore& parameters_;
  const BucketPlan& plan_;
  const ProcessGrid& grid_;
  const DType transport_;
  std::array<Tensor, 2> flat_;     // by placement, as ParameterStore::flat()
  std::vector<Tensor> gradients_;  // views of those, by parameter
  std::vector<int> waiting_;       // by bucket: gradients that are not there yet
  std::vector<Pending> reductions_;
  std::size_t next_to_send_ = 0;
  bool reducing_ = false;
};

}  // namespace moe
