// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "comm/communicator.h"

namespace moe {

/// The job that a *_mpi_test.cpp runs in.
MpiWorld& mpi_world();

}  // namespace moe
