// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_tasks.h"

#include <exception>
#include <numeric>

namespace moe {

MpiGroup::MpiGroup(MPI_Comm owned) : calls(owned) {
  MPI_CHECK(MPI_Comm_set_errhandler(calls, MPI_ERRORS_RETURN));
  MPI_CHECK(MPI_Comm_dup(calls, &rows.comm));
  MPI_CHECK(MPI_Comm_dup(calls, &bulk.comm));
  MPI_CHECK(MPI_Comm_rank(calls, &rank));
  MPI_CHECK(MPI_Comm_size(calls, &size));
  std::vector<int> members(std::size_t(size), 0);
  std::iota(members.begin(), members.end(), 0);
  world_ranks.resize(members.size());
  MPI_Group group, world;
  MPI_CHECK(MPI_Comm_group(calls, &group));
  MPI_CHECK(MPI_Comm_group(MPI_COMM_WORLD, &world));
  MPI_CHECK(MPI_Group_translate_ranks(group, size, members.data(), world, world_ranks.data()));
  MPI_Group_free(&group);
  MPI_Group_free(&world);
}

MpiGroup::~MpiGroup() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized || std::uncaught_exceptions() > 0) return;
  MPI_Comm_free(&bulk.comm);
  MPI_Comm_free(&rows.comm);
  MPI_Comm_free(&calls);
}

/// Types as MPI moves them: bf16 and f16 as 16 bits.
MPI_Datatype element_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::i32:
      return MPI_INT32_T;
    case DType::i64:
      return MPI_INT64_T;
    case DType::u8:
      return MPI_UINT8_T;
    case DType::bf16:
    case DType::f16:
      return MPI_UINT16_T;
  }
  return MPI_BYTE;
}

bool MpiTask::requests_done() {
  while (!requests_.empty()) {
    int complete = 0;
    MPI_CHECK(MPI_Test(&requests_.back(), &complete, MPI_STATUS_IGNORE));
    if (!complete) return false;
    requests_.pop_back();
  }
  return true;
}

}  // namespace moe
