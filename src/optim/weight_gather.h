// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "comm/process_grid.h"
#include "nn/parameter_store.h"
#include "optim/buckets.h"

namespace moe {

/// Brings updated weights from their owners to all who hold them, bucket by bucket, while the next
/// forward pass begins. Does nothing where the plan is not sharded.
class WeightGather {
 public:
  /// Keeps references.
  WeightGather(const ParameterStore& parameters, const BucketPlan& plan, const ProcessGrid& grid);
  WeightGather(const WeightGather&) = delete;
  WeightGather& operator=(const WeightGather&) = delete;

  /// This rank's part of the bucket is new: sends it. On every rank in the same order, that of the
  /// forward pass.
  void start(std::size_t bucket);
  /// Waits until the first `count` parameters of the store are whole.
  void wait_for_first(std::size_t count);

 private:
  const ParameterStore& parameters_;
  const BucketPlan& plan_;
  const ProcessGrid& grid_;
  std::vector<Pending> gathers_;  // by bucket
};

}  // namespace moe
