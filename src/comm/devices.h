// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "comm/communicator.h"

/// What the ranks of a job see of GPUs, compared before anything lies on one. Collective.
namespace moe {

/// Throws InputError when some ranks see a GPU and others none, or when ranks of one host see
/// different numbers of them: the same message on every rank, which names two ranks.
void check_devices(Communicator& world);

/// Two ranks that use the same GPU of the same host, in words; empty: each has its own. Every rank
/// sees a GPU.
std::string shared_device(Communicator& world);

}  // namespace moe
