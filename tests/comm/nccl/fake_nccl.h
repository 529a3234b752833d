// SPDX-License-Identifier: Apache-2.0
#pragma once

/// NCCL on fake devices: collectives are work of their stream's thread, which waits there for its
/// peers. Sends and receives whose sizes differ, calls that do not match, and communicators that
/// are destroyed with work under way are failures of the test.
namespace moe::fake {

/// From here on NCCL has noticed that this rank's process is gone; -1: all are there again.
void lose_rank(int rank);

/// What ncclGetVersion() answers the calling thread.
void set_nccl_version(int code);

/// ncclCommInitRankConfig() fails from here on.
void refuse_start(bool on);

/// Communicators that were aborted so far, and that are neither destroyed nor aborted.
int aborted_communicators();
int open_communicators();

}  // namespace moe::fake
