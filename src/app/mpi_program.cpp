// SPDX-License-Identifier: Apache-2.0
#include "app/mpi_program.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "app/app.h"
#include "core/error.h"
#include "core/log.h"

namespace moe {

int run_under_mpi(const std::string& name, int& argc, char**& argv,
                  const std::function<int(MpiWorld&)>& body) {
  MpiWorld mpi(&argc, &argv);
  set_log_rank(mpi.world().rank());
  try {
    return body(mpi);
  } catch (const std::exception& e) {
    if (mpi.world().size() == 1) return report_error(name);
    const bool input = dynamic_cast<const InputError*>(&e) != nullptr;
    if (input && mpi.world().rank() > 0) std::this_thread::sleep_for(std::chrono::seconds(5));
    mpi.abort(str(name, ": error: ", e.what()), input ? kExitBadInput : kExitFailed);
  }
}

bool launched_by_mpi() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(variable) != nullptr) return true;
  return false;
}

int set_threads(std::int64_t configured, int local_ranks) {
  const int cores = int(std::max(1u, std::thread::hardware_concurrency()));
  const int threads = configured > 0 ? int(configured) : std::max(1, cores / local_ranks);
  omp_set_num_threads(threads);
  return threads;
}

}  // namespace moe
