// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "comm/communicator.h"

namespace moe {

/// Runs `body` as a rank of the MPI job that this process belongs to, or as the only rank. What it
/// throws ends the whole job with one line and the exit code it stands for. Rank 0 speaks for all
/// where the input is bad on every rank.
int run_under_mpi(const std::string& name, int& argc, char**& argv,
                  const std::function<int(MpiWorld&)>& body);

/// Whether a launcher (mpirun, srun with PMI) started this process.
bool launched_by_mpi();

/// Sets and returns the threads of this rank: `configured`, or when that is 0 the cores over the
/// ranks of this host.
int set_threads(std::int64_t configured, int local_ranks);

}  // namespace moe
