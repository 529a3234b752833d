// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/communicator.h"

struct ncclComm;     // ncclComm_t points to it
struct CUevent_st;   // cudaEvent_t
struct CUstream_st;  // cudaStream_t

/// How collectives of NCCL run beside the compute stream; for the NCCL files of this layer.
namespace moe {

/// A point in the order of a stream.
class DeviceEvent {
 public:
  explicit DeviceEvent(CUstream_st* stream);
  ~DeviceEvent();
  DeviceEvent(const DeviceEvent&) = delete;
  DeviceEvent& operator=(const DeviceEvent&) = delete;

  /// What `stream` is given from here on begins behind this point.
  void hold(CUstream_st* stream) const;
  /// Throws Error when the device has failed.
  bool passed() const;

 private:
  CUevent_st* event_ = nullptr;
};

/// A stream for collectives, one after the other, and memory that they use in its order.
struct NcclLink {
  NcclLink(int priority, std::int64_t scratch_bytes);
  ~NcclLink();
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  CUstream_st* stream = nullptr;
  const Tensor scratch;  // u8
  // Collectives. The first number belongs to the rank's thread, the second to the progress engine.
  std::int64_t started = 0, done = 0;
};

/// One group of ranks as NCCL sees it, on one link.
struct NcclGroup {
  ncclComm* comm = nullptr;  // nullptr: aborted or closed
};

/// The links of this process, which all groups of a world share.
///
/// Why nothing deadlocks: NCCL's kernels spin until their peers' run, so two of them that meet in
/// another order on another device could wait for each other. Here all collectives are queued by
/// one thread in the order of the program, which is the same on all members of a group, and a link
/// runs one at a time. Of all unfinished collectives take the first in that order: on each member's
/// device, what its link and the compute stream were given before it is done, so it can start; the
/// one kernel that may spin beside it, the other link's, leaves it room (kMaxBlocks), and kernels
/// that compute end by themselves.
class NcclLinks {
 public:
  /// rank: of the world, for messages.
  NcclLinks(int rank, std::int64_t scratch_bytes);
  ~NcclLinks();
  NcclLinks(const NcclLinks&) = delete;
  NcclLinks& operator=(const NcclLinks&) = delete;

  CUstream_st* const compute;
  NcclLink urgent, bulk;  // rows and small sums; everything large

  /// Throws Error with what failed first.
  void check() const;

  /// The group of `host`'s members. Collective; unique ids travel over `host`.
  std::shared_ptr<NcclGroup> open(Communicator& host);
  /// When all its collectives are done, unless something has failed or an exception unwinds.
  void close(NcclGroup& group, const NcclLink& link);

  /// What a collective asks of NCCL and of the device, on the link's stream.
  using Issue = std::function<void(ncclComm* comm, const NcclLink& link)>;

  /// Queues a collective on `link`, behind all that the compute stream has been given. wait()
  /// throws `error` unless it is empty. links: this object.
  static Pending start(const std::shared_ptr<NcclLinks>& links, NcclLink& link,
                       const std::shared_ptr<NcclGroup>& group, const char* operation,
                       std::vector<Tensor> tensors, const Issue& issue, std::string error = "");

  /// Notes the failure, if it is the first, and aborts all communicators.
  void fail(const std::string& what);
  /// Throws Error when NCCL has noticed that the group has failed. Leaves it for the next time
  /// where another thread is inside NCCL.
  void check_group(const NcclGroup& group);

 private:
  bool failed() const;

  const int rank_;
  std::mutex nccl_;  // NCCL's communicators are used by one thread at a time
  std::vector<std::shared_ptr<NcclGroup>> groups_;
  mutable std::mutex mutex_;
  std::string failure_;
};

/// Throws Error with NCCL's words.
[[noreturn]] void fail_nccl(const char* file, int line, const char* call, int status);

}  // namespace moe

/// Checks the status of an NCCL call; 0 is ncclSuccess.
#define NCCL_CHECK(call)                                         \
  do {                                                           \
    if (const int nccl_status_ = (call); nccl_status_ != 0)      \
      ::moe::fail_nccl(__FILE__, __LINE__, #call, nccl_status_); \
  } while (0)
