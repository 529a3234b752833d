// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>

#include "comm/collective_log.h"
#include "comm/nccl_links.h"
#include "comm/progress.h"
#include "core/cuda_check.h"
#include "core/cuda_device.h"

namespace moe {
namespace {

/// Blocks of one NCCL kernel. Two of them, one for each link, fit on any device that we build for,
/// one block to a multiprocessor: an A100 has 108.
constexpr int kMaxBlocks = 32;

int highest_priority() {
  static_cast<void>(cuda::compute_stream());  // from here on this thread is on its device
  int lowest = 0, highest = 0;
  CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  return highest;
}

/// Sees a collective through to its end on the device: for the watchdog, and so that a failure is
/// noticed while the host does something else. Holds no tensors.
class Observer final : public Task {
 public:
  Observer(const char* operation, std::int64_t bytes, std::shared_ptr<NcclLinks> links,
           NcclLink& link, std::shared_ptr<NcclGroup> group, std::shared_ptr<DeviceEvent> done)
      : Task(operation, bytes, {}),
        what_(operation),
        links_(std::move(links)),
        link_(link),
        turn_(link.started++),
        group_(std::move(group)),
        done_(std::move(done)) {}

 private:
  bool proceed() override {
    if (link_.done != turn_) return false;  // a link is in order: the first one speaks for all
    try {
      links_->check();
      if (!done_->passed()) {
        links_->check_group(*group_);
        return false;
      }
    } catch (const Error& error) {
      ++link_.done;
      links_->fail(str(what_, " failed: ", error.what()));
      throw;
    }
    ++link_.done;
    return true;
  }

  const char* const what_;
  const std::shared_ptr<NcclLinks> links_;
  NcclLink& link_;
  const std::int64_t turn_;
  const std::shared_ptr<NcclGroup> group_;
  const std::shared_ptr<DeviceEvent> done_;
};

/// Ends on the compute stream, which waits for the collective before it may use its tensors or
/// their memory.
class OnComputeStream final : public Pending::Operation {
 public:
  OnComputeStream(std::shared_ptr<NcclLinks> links, std::shared_ptr<DeviceEvent> done,
                  std::vector<Tensor> tensors, std::string error)
      : links_(std::move(links)),
        done_(std::move(done)),
        tensors_(std::move(tensors)),
        error_(std::move(error)) {}

  ~OnComputeStream() override {
    try {
      if (!tensors_.empty()) done_->hold(links_->compute);
    } catch (const Error&) {  // the device has failed, and with it whoever could use the memory
    }
  }

  bool test() override {
    links_->check();
    if (!done_->passed()) return false;
    wait();
    return true;
  }

  void wait() override {
    links_->check();
    done_->hold(links_->compute);
    tensors_.clear();
    if (!error_.empty()) throw Error(error_);
  }

 private:
  const std::shared_ptr<NcclLinks> links_;
  const std::shared_ptr<DeviceEvent> done_;
  std::vector<Tensor> tensors_;
  const std::string error_;
};

}  // namespace

void fail_nccl(const char* file, int line, const char* call, int status) {
  const char* last = ncclGetLastError(nullptr);
  fail_check(file, line, call,
             str("NCCL: ", ncclGetErrorString(ncclResult_t(status)),
                 last != nullptr && *last != '\0' ? str(" (", last, ")") : "",
                 "; NCCL_DEBUG=INFO tells more"));
}

DeviceEvent::DeviceEvent(CUstream_st* stream) {
  CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  CUDA_CHECK(cudaEventRecord(event_, stream));
}
DeviceEvent::~DeviceEvent() { static_cast<void>(cudaEventDestroy(event_)); }

void DeviceEvent::hold(CUstream_st* stream) const {
  CUDA_CHECK(cudaStreamWaitEvent(stream, event_, 0));
}

bool DeviceEvent::passed() const {
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) return false;
  CUDA_CHECK(status);
  return true;
}

NcclLink::NcclLink(int priority, std::int64_t scratch_bytes)
    : scratch(Tensor::empty({scratch_bytes}, DType::u8, Device::cuda)) {
  CUDA_CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority));
}
NcclLink::~NcclLink() { static_cast<void>(cudaStreamDestroy(stream)); }

// Both before kernels that compute, rows before gradients: a collective that starts late keeps
// whole devices waiting.
NcclLinks::NcclLinks(int rank, std::int64_t scratch_bytes)
    : compute(cuda::compute_stream()),
      urgent(highest_priority(), scratch_bytes / 16),
      bulk(std::min(highest_priority() + 1, 0), scratch_bytes),
      rank_(rank) {}

NcclLinks::~NcclLinks() = default;

bool NcclLinks::failed() const {
  const std::lock_guard lock(mutex_);
  return !failure_.empty();
}

void NcclLinks::check() const {
  const std::lock_guard lock(mutex_);
  if (!failure_.empty()) throw Error(failure_);
}

void NcclLinks::fail(const std::string& what) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) return;
    failure_ = str("rank ", rank_, ": ", what);
  }
  // A thread inside NCCL finds the failure when it comes out, and aborts as its exception unwinds.
  const std::unique_lock lock(nccl_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  for (const auto& group : groups_)
    if (ncclComm_t comm = std::exchange(group->comm, nullptr); comm != nullptr)
      static_cast<void>(ncclCommAbort(comm));
}

void NcclLinks::check_group(const NcclGroup& group) {
  const std::unique_lock lock(nccl_, std::try_to_lock);
  if (!lock.owns_lock() || group.comm == nullptr) return;
  ncclResult_t status = ncclSuccess;
  NCCL_CHECK(ncclCommGetAsyncError(group.comm, &status));
  if (status != ncclSuccess && status != ncclInProgress)
    fail_nccl(__FILE__, __LINE__, "ncclCommGetAsyncError", status);
}

std::shared_ptr<NcclGroup> NcclLinks::open(Communicator& host) {
  const CollectiveTicket ticket("start of NCCL", 0);
  const Tensor bytes = Tensor::zeros({NCCL_UNIQUE_ID_BYTES}, DType::u8);
  ncclUniqueId id{};
  if (host.rank() == 0) {
    NCCL_CHECK(ncclGetUniqueId(&id));
    std::memcpy(bytes.bytes(), id.internal, sizeof id.internal);
  }
  host.broadcast(bytes, 0).wait();
  std::memcpy(id.internal, bytes.bytes(), sizeof id.internal);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.maxCTAs = kMaxBlocks;
  auto group = std::make_shared<NcclGroup>();
  const std::lock_guard lock(nccl_);
  NCCL_CHECK(ncclCommInitRankConfig(&group->comm, host.size(), id, host.rank(), &config));
  groups_.push_back(group);
  return group;
}

void NcclLinks::close(NcclGroup& group, const NcclLink& link) {
  bool orderly = std::uncaught_exceptions() == 0 && !failed();
  if (orderly) {
    try {
      const WaitingScope waiting;
      const DeviceEvent last(link.stream);
      while (!last.passed() && !failed()) std::this_thread::yield();
      progress_tasks();
    } catch (const Error&) {  // said by the observer of the collective that failed
      orderly = false;
    }
    orderly = orderly && !failed();
  }
  const std::lock_guard lock(nccl_);
  std::erase_if(groups_, [&](const auto& g) { return g.get() == &group; });
  ncclComm_t comm = std::exchange(group.comm, nullptr);
  if (comm != nullptr) static_cast<void>(orderly ? ncclCommDestroy(comm) : ncclCommAbort(comm));
}

Pending NcclLinks::start(const std::shared_ptr<NcclLinks>& links, NcclLink& link,
                         const std::shared_ptr<NcclGroup>& group, const char* operation,
                         std::vector<Tensor> tensors, const Issue& issue, std::string error) {
  std::size_t bytes = 0;
  for (const Tensor& t : tensors) bytes = std::max(bytes, t.nbytes());
  DeviceEvent(links->compute).hold(link.stream);
  try {
    const std::lock_guard lock(links->nccl_);
    if (group->comm != nullptr) issue(group->comm, link);
  } catch (const Error& failure) {
    links->fail(str(operation, " failed: ", failure.what()));
    links->check();
  }
  links->check();
  auto done = std::make_shared<DeviceEvent>(link.stream);
  watch_task(std::make_shared<Observer>(operation, std::int64_t(bytes), links, link, group, done));
  return Pending(std::make_unique<OnComputeStream>(links, std::move(done), std::move(tensors),
                                                   std::move(error)));
}

}  // namespace moe
