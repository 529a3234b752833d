// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace moe {

/// `group` for tensors of any device: those that it cannot take travel by way of host memory. Their
/// results are on the device after wait(). For ranks that share a device, which NCCL refuses, and
/// for trials. Keeps a reference.
std::unique_ptr<Communicator> by_way_of_host_memory(Communicator& group);

}  // namespace moe
