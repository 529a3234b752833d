// SPDX-License-Identifier: Apache-2.0
#include "ops/exchange.h"

#include <numeric>

namespace moe::ops {
namespace {

Tensor exchange(const Tensor& x, const std::vector<std::int64_t>& send,
                const std::vector<std::int64_t>& recv, Communicator& group) {
  Shape shape = x.shape();
  shape[0] = std::accumulate(recv.begin(), recv.end(), std::int64_t{0});
  Tensor y = Tensor::empty(std::move(shape), x.dtype(), x.device());
  group.all_to_all(y, recv, x, send).wait();
  return y;
}

Tensor summed(const Tensor& x, Communicator& group) {
  Tensor y = x.clone();
  group.all_reduce(y, ReduceOp::sum).wait();
  return y;
}

}  // namespace

Variable all_to_all(const Variable& x, std::vector<std::int64_t> send_rows,
                    std::vector<std::int64_t> recv_rows, Communicator& group) {
  Tensor y = exchange(x.value, send_rows, recv_rows, group);
  return record("all_to_all", {x}, y,
                [&group, send_rows = std::move(send_rows),
                 recv_rows = std::move(recv_rows)](std::span<const Tensor> dy) {
                  return std::vector<Tensor>{exchange(dy[0], recv_rows, send_rows, group)};
                });
}

Variable all_reduce_sum(const Variable& x, Communicator& group) {
  return record(
      "all_reduce_sum", {x}, summed(x.value, group),
      [&group](std::span<const Tensor> dy) { return std::vector<Tensor>{summed(dy[0], group)}; });
}

}  // namespace moe::ops
