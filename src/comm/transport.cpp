// SPDX-License-Identifier: Apache-2.0
#include "comm/transport.h"

#include "comm/devices.h"
#include "comm/nccl_comm.h"
#include "comm/staged_comm.h"
#include "core/log.h"

namespace moe {

std::unique_ptr<Communicator> for_device(Communicator& world, Device device, Transport choice) {
  const bool wanted = choice == Transport::nccl;
  MOE_REQUIRE(!wanted || device == Device::cuda,
              "parallel.transport nccl is for ranks on CUDA devices: set run.device to cuda");
  MOE_REQUIRE(!wanted || nccl_built(),
              "parallel.transport nccl: built without NCCL, configure with `cmake --preset cuda`");
  if (device == Device::cpu || world.size() == 1 || choice == Transport::host || !nccl_built())
    return by_way_of_host_memory(world);
  const std::string shared = wanted ? "" : shared_device(world);
  if (shared.empty()) return nccl_communicator(world);
  if (world.rank() == 0) log_info("tensors travel by way of host memory: {}", shared);
  return by_way_of_host_memory(world);
}

}  // namespace moe
