// SPDX-License-Identifier: Apache-2.0
#include "optim/weight_gather.h"

#include "comm/watchdog.h"

namespace moe {

WeightGather::WeightGather(const ParameterStore& parameters, const BucketPlan& plan,
                           const ProcessGrid& grid)
    : parameters_(parameters), plan_(plan), grid_(grid), gathers_(plan.buckets().size()) {}

void WeightGather::start(std::size_t bucket) {
  const Bucket& b = plan_.buckets()[bucket];
  if (b.parts.empty()) return;
  const Tensor weights = parameters_.flat(b.placement).slice(b.first, b.size);
  const Share own = plan_.own_part(b);
  gathers_[bucket] =
      grid_.holders(b.placement).all_gather(weights, weights.slice(own.first, own.count), b.parts);
}

void WeightGather::wait_for_first(std::size_t count) {
  for (std::size_t bucket = gathers_.size(); bucket-- > 0;)
    // A bucket's parameters lie last first.
    if (plan_.buckets()[bucket].parameters.back() < count && !gathers_[bucket].test()) {
      set_phase("gather weights");
      gathers_[bucket].wait();
    }
}

}  // namespace moe
