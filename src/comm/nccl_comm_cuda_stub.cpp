// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl_comm.h"
#include "core/cuda_device.h"

namespace moe {

std::unique_ptr<Communicator> nccl_communicator(Communicator&, std::int64_t) {
  throw Error(cuda::why_unavailable());
}

}  // namespace moe
