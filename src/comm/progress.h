// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <vector>

#include "comm/collective_log.h"
#include "comm/communicator.h"

namespace moe {

/// A collective under way that somebody has to move along. Who waits for one moves all of them,
/// because a peer may wait for another; while nobody waits and collectives are under way, a thread
/// of the process does so every quarter of a millisecond, more often after a task has begun or
/// ended, and sleeps in between: MPI moves nothing behind a program's back.
class Task {
 public:
  /// Keeps the tensors alive until it is done.
  Task(const char* operation, std::int64_t bytes, std::vector<Tensor> tensors)
      : ticket_(operation, bytes), tensors_(std::move(tensors)) {}
  virtual ~Task() = default;

  /// Moves the collective along; true when it has finished or failed.
  bool advance();
  bool done() const { return done_; }
  /// Once it is done: throws what went wrong.
  void check() const;

 protected:
  /// Takes the next steps that are possible now; true when there is nothing left to do. Throws
  /// Error when the collective has failed. May start tasks and test their Pendings.
  virtual bool proceed() = 0;

 private:
  CollectiveTicket ticket_;
  std::vector<Tensor> tensors_;
  std::exception_ptr failure_;
  bool done_ = false;
};

/// From here on the task is moved along. Tasks proceed one at a time, whichever thread moves them.
Pending start_task(std::shared_ptr<Task> task);
/// The same for a task that nobody waits for: it only sees what goes on.
void watch_task(const std::shared_ptr<Task>& task);

/// Moves all tasks of this process along.
void progress_tasks();

/// Tasks that are started and not done.
std::size_t unfinished_tasks();

}  // namespace moe
