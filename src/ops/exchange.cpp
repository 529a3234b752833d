// SPDX-License-Identifier: Apache-2.0
#include "ops/exchange.h"

namespace moe::ops {
namespace {

Tensor summed(const Tensor& x, Communicator& group) {
  Tensor y = x.clone();
  group.all_reduce(y, ReduceOp::sum).wait();
  return y;
}

}  // namespace

Variable all_reduce_sum(const Variable& x, Communicator& group) {
  return record(
      "all_reduce_sum", {x}, summed(x.value, group),
      [&group](std::span<const Tensor> dy) { return std::vector<Tensor>{summed(dy[0], group)}; });
}

}  // namespace moe::ops
