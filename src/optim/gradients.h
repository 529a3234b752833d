// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "comm/process_grid.h"
#include "nn/parameter_store.h"

namespace moe {

/// The gradients of a step, in flat buckets that are summed over ranks while backward still runs.
///
/// One rule (docs/parallelism.md): losses are divided by global counts before backward, so every
/// reduction is a plain sum over the group that replicates the parameter: the world, or the
/// expert's data group. Buckets hold parameters in reverse order of the forward pass, which is the
/// order their gradients get ready in, and leave in that order on every rank.
class GradientBuckets {
 public:
  /// Keeps references. Gradients are f32 (f64 for an f64 model).
  GradientBuckets(ParameterStore& parameters, const ProcessGrid& grid, std::int64_t bucket_bytes);
  ~GradientBuckets();

  /// Forgets the gradients of the previous step.
  void begin_step();
  /// From here on a bucket leaves as soon as the last of its gradients is there.
  void begin_last_micro_batch();
  /// Sends what has not left (parameters without gradient count as zero) and waits for all.
  void finish();

  /// The norm over all parameters of the model, each counted once. Collective; after finish().
  double global_norm() const;

  /// The gradient of parameter i of the store; after finish().
  const Tensor& gradient(std::size_t i) const { return gradients_[i]; }

 private:
  struct Bucket {
    Placement placement;
    Tensor flat;
    std::vector<std::size_t> parameters;
    int waiting = 0;  // gradients that are not there yet
    Pending reduction;
  };
  Communicator& group_of(const Bucket& bucket) const;
  void ready(std::size_t bucket);
  void send_in_order();

  ParameterStore& parameters_;
  const ProcessGrid& grid_;
  std::vector<Bucket> buckets_;
  std::vector<Tensor> gradients_;
  std::size_t next_to_send_ = 0;
  bool reducing_ = false;
};

}  // namespace moe
