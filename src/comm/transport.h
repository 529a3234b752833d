// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "config/transport.h"

namespace moe {

/// `world` for ranks that compute on `device`, all on the same kind; says which way tensors of
/// devices take. Throws InputError when NCCL was asked for and cannot be had. Collective; keeps a
/// reference.
std::unique_ptr<Communicator> for_device(Communicator& world, Device device, Transport choice);

}  // namespace moe
