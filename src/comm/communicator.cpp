// SPDX-License-Identifier: Apache-2.0
#include "comm/communicator.h"

namespace moe {

Pending Communicator::reduce_scatter(Tensor out, Tensor in) {
  const std::vector<std::int64_t> parts(std::size_t(size()), out.size());
  return reduce_scatter(std::move(out), std::move(in), parts);
}

Pending Communicator::all_gather(Tensor out, Tensor in) {
  const std::vector<std::int64_t> parts(std::size_t(size()), in.size());
  return all_gather(std::move(out), std::move(in), parts);
}

}  // namespace moe
