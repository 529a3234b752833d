// SPDX-License-Identifier: Apache-2.0
#include <mpi.h>
#include <unistd.h>

#include <chrono>
#include <exception>
#include <string_view>
#include <thread>

#include "comm/communicator.h"
#include "comm/mpi_comm.h"
#include "comm/progress.h"

namespace moe {
namespace {

int rank_in_world() {
  int rank = 0;
  MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
  return rank;
}

/// Up to the opening bracket: "MPI_Iallreduce".
std::string_view name_of(std::string_view call) { return call.substr(0, call.find('(')); }

}  // namespace

void fail_mpi(const char* file, int line, const char* call, int status) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0, rank = 0;
  MPI_Error_string(status, text, &length);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  throw Error(str(name_of(call), " failed on rank ", rank, ": ", text, " [", file, ":", line, "]"));
}

void end_job(const std::string& message, int exit_code) {
  const std::string text = message + "\n";
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) exit_code = exit_code ? exit_code : 1;
  // MPI_Abort itself hangs when this host is cut off from the one that started the job.
  std::thread([exit_code] {
    std::this_thread::sleep_for(std::chrono::seconds(3));
    ::_exit(exit_code);
  }).detach();
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  ::_exit(exit_code);
}

MpiWorld::MpiWorld(int* argc, char*** argv) {
  int initialised = 0, provided = 0;
  MPI_Initialized(&initialised);
  MOE_CHECK(!initialised, "MPI is already initialised: there is one MpiWorld per process");
  MPI_CHECK(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided));
  MOE_CHECK(provided == MPI_THREAD_MULTIPLE,
            "this MPI gives no MPI_THREAD_MULTIPLE, which the watchdog needs: use a build of Open "
            "MPI or MPICH with thread support");
  world_ = mpi_world_communicator();
  MPI_Comm host = MPI_COMM_NULL;
  MPI_CHECK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host));
  MPI_CHECK(MPI_Comm_size(host, &local_ranks_));
  MPI_CHECK(MPI_Comm_rank(host, &local_rank_));
  host_ = world_->rank();
  MPI_CHECK(MPI_Bcast(&host_, 1, MPI_INT, 0, host));
  MPI_CHECK(MPI_Comm_free(&host));
}

MpiWorld::~MpiWorld() {
  // In both cases peers wait for what this rank will not do any more, so MPI_Finalize would hang.
  if (std::uncaught_exceptions() > 0)
    abort("ended by an exception that left the scope of its MpiWorld", 1);
  if (unfinished_tasks() > 0) abort("ended with unfinished collectives", 1);
  world_.reset();
  MPI_Finalize();
}

void MpiWorld::abort(const std::string& reason, int exit_code) {
  end_job(str("rank ", rank_in_world(), ": ", reason), exit_code);
}

}  // namespace moe
