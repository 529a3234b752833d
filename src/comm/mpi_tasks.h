// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <memory>
#include <span>
#include <vector>

#include "comm/mpi_comm.h"
#include "comm/progress.h"

/// Collectives of an MPI group as tasks; for the MPI files of this layer alone, as it shows mpi.h.
namespace moe {

/// A communicator for collectives that post their MPI calls at some later point than the program's,
/// not the same on every rank. MPI wants the same order on a communicator, so they follow each
/// other here in the order in which the program started them, the next one when the last one is
/// done: a link shared by all of them would deliver the first as late as the last.
struct Channel {
  MPI_Comm comm = MPI_COMM_NULL;
  std::int64_t started = 0, done = 0;
};

/// One group of ranks as MPI sees it.
struct MpiGroup {
  explicit MpiGroup(MPI_Comm owned);
  ~MpiGroup();
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;

  MPI_Comm calls;
  Channel rows, bulk;
  int rank = 0, size = 1;
  std::vector<int> world_ranks;
};

/// Exchanges of rows whose payload is on its way, over all groups. An expert waits for them, while
/// gradients and weights have a whole pass: bulk collectives post no further piece until they are
/// there. Nothing deadlocks on that: of all ranks' waits take the earliest in the program's order.
/// The rows under way on a rank that has not passed it were sent by calls before it, which all
/// members have made, so they arrive. Used under the lock of the progress engine.
inline int rows_under_way = 0;

/// Types as MPI moves them: bf16 and f16 as 16 bits.
MPI_Datatype element_type(DType dtype);

/// A collective as MPI requests that are complete together, in one stage or several.
class MpiTask : public Task {
 public:
  MpiTask(std::shared_ptr<MpiGroup> group, const char* operation, std::int64_t bytes,
          std::vector<Tensor> tensors)
      : Task(operation, bytes, std::move(tensors)), group_(std::move(group)) {}

  /// A place for the request of one more MPI call.
  MPI_Request* add() { return &requests_.emplace_back(MPI_REQUEST_NULL); }

 protected:
  bool proceed() override { return requests_done() && !post_more(); }
  /// The next stage when all requests are complete; false when there is nothing left to do.
  virtual bool post_more() { return false; }

  const std::shared_ptr<MpiGroup> group_;

 private:
  bool requests_done();

  std::vector<MPI_Request> requests_;
};

/// A task that waits for its turn on a channel.
class QueuedTask : public MpiTask {
 protected:
  QueuedTask(std::shared_ptr<MpiGroup> group, Channel MpiGroup::*channel, const char* operation,
             std::int64_t bytes, std::vector<Tensor> tensors)
      : MpiTask(std::move(group), operation, bytes, std::move(tensors)),
        channel_((*group_).*channel),
        turn_(channel_.started++) {}

  bool post_more() final {
    if (channel_.done != turn_) return true;
    if (post_next()) return true;
    ++channel_.done;
    conclude();
    return false;
  }
  /// As post_more(), once it is this task's turn.
  virtual bool post_next() = 0;
  /// Throws when the collective has failed.
  virtual void conclude() {}

  MPI_Comm comm() const { return channel_.comm; }

 private:
  Channel& channel_;
  const std::int64_t turn_;
};

/// Communicator's all_to_all.
std::shared_ptr<Task> all_to_all_task(std::shared_ptr<MpiGroup> group, const Tensor& out,
                                      std::span<const std::int64_t> recv_rows, const Tensor& in,
                                      std::span<const std::int64_t> send_rows, RowCounts counts);

/// Communicator's reduce_scatter, all_gather and, of large tensors, all_reduce with
/// ReduceOp::sum. They move in pieces, none of them while rows are under way.
std::shared_ptr<Task> reduce_scatter_task(std::shared_ptr<MpiGroup> group, const Tensor& out,
                                          const Tensor& in, std::span<const std::int64_t> parts);
std::shared_ptr<Task> all_gather_task(std::shared_ptr<MpiGroup> group, const Tensor& out,
                                      const Tensor& in, std::span<const std::int64_t> parts);
std::shared_ptr<Task> all_reduce_sum_task(std::shared_ptr<MpiGroup> group, const Tensor& x);

}  // namespace moe
