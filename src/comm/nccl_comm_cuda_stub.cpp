// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl_comm.h"

namespace moe {

bool nccl_built() { return false; }

std::unique_ptr<Communicator> nccl_communicator(Communicator&, std::int64_t) {
  throw Error("built without NCCL: configure with `cmake --preset cuda`");
}

}  // namespace moe
