// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

/// What the MPI files of this layer share; free of mpi.h. MPI must be initialised.
namespace moe {

/// A duplicate of MPI_COMM_WORLD. Collective.
std::unique_ptr<Communicator> mpi_world_communicator();

/// Throws Error with MPI's own words and this process's rank.
[[noreturn]] void fail_mpi(const char* file, int line, const char* call, int status);

/// Writes `message` to standard error in one piece and ends every process of the job, without
/// cleaning up; ends at least this one when the others cannot be reached.
[[noreturn]] void end_job(const std::string& message, int exit_code);

}  // namespace moe

/// Checks the status of an MPI call; 0 is MPI_SUCCESS in every MPI.
#define MPI_CHECK(call)                                        \
  do {                                                         \
    if (const int mpi_status_ = (call); mpi_status_ != 0)      \
      ::moe::fail_mpi(__FILE__, __LINE__, #call, mpi_status_); \
  } while (0)
