// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl/fake_nccl.h"

#include <gtest/gtest.h>
#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "comm/nccl/fake_device.h"
#include "core/dtype.h"

namespace {

struct Message {
  const char* operation;
  std::vector<std::byte> bytes;
};

/// What the members of a communicator share.
struct Clique {
  std::mutex mutex;
  std::condition_variable changed;
  int joined = 0;
  std::vector<int> devices;                                 // by member
  std::map<std::pair<int, int>, std::deque<Message>> mail;  // from, to
};

std::atomic<int> lost_rank{-1}, aborted{0}, open{0};
std::atomic<bool> refused{false};
thread_local int version_here = NCCL_VERSION_CODE;

}  // namespace

struct ncclComm {
  std::shared_ptr<Clique> clique;
  int rank, size;
  std::atomic<bool> stopped{false};
  std::atomic<int> under_way{0};
};

namespace {

struct Transfer {
  int peer;
  std::byte* bytes;
  std::size_t count;
};

/// One call: what it sends, then what it receives, then the rest.
struct Call {
  ncclComm* comm;
  cudaStream_t stream;
  const char* operation;
  std::vector<Transfer> sends, receives;
  std::function<void()> finish;
};

void send(const Call& call) {
  Clique& clique = *call.comm->clique;
  for (const Transfer& t : call.sends) {
    const std::lock_guard lock(clique.mutex);
    clique.mail[{call.comm->rank, t.peer}].push_back(
        {call.operation, std::vector(t.bytes, t.bytes + t.count)});
    clique.changed.notify_all();
  }
}

void receive(const Call& call) {
  Clique& clique = *call.comm->clique;
  for (const Transfer& t : call.receives) {
    std::unique_lock lock(clique.mutex);
    auto& mail = clique.mail[{t.peer, call.comm->rank}];
    const bool there = clique.changed.wait_for(lock, std::chrono::seconds(30),
                                               [&] { return call.comm->stopped || !mail.empty(); });
    if (call.comm->stopped) return;
    if (!there) {
      ADD_FAILURE() << call.operation << ": member " << call.comm->rank << " never hears of member "
                    << t.peer;
      return;
    }
    const Message message = std::move(mail.front());
    mail.pop_front();
    EXPECT_STREQ(message.operation, call.operation);
    EXPECT_EQ(message.bytes.size(), t.count) << call.operation << " of member " << t.peer;
    std::memcpy(t.bytes, message.bytes.data(), std::min(t.count, message.bytes.size()));
  }
}

thread_local int group_depth = 0;
thread_local std::vector<Call> grouped;

ncclResult_t launch(std::vector<Call> calls) {
  for (const Call& call : calls) {
    EXPECT_EQ(call.stream, calls[0].stream) << "a group of calls on several streams";
    ++call.comm->under_way;
  }
  if (calls.empty()) return ncclSuccess;
  moe::fake::enqueue(calls[0].stream, [calls] {
    for (const Call& call : calls) send(call);
    for (const Call& call : calls) receive(call);
    for (const Call& call : calls) {
      if (call.finish) call.finish();
      --call.comm->under_way;
    }
  });
  return ncclSuccess;
}

ncclResult_t submit(Call call) {
  if (group_depth == 0) return launch({std::move(call)});
  grouped.push_back(std::move(call));
  return ncclSuccess;
}

std::size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclUint8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclFloat32:
      return 4;
    default:
      return 8;
  }
}

std::byte* bytes_of(const void* p) {
  return const_cast<std::byte*>(static_cast<const std::byte*>(p));
}

template <class T>
void take_maximum(std::byte* to, const std::byte* from, std::size_t count) {
  auto* y = reinterpret_cast<T*>(to);
  const auto* x = reinterpret_cast<const T*>(from);
  for (std::size_t i = 0; i < count; ++i)
    if (double(x[i]) > double(y[i])) y[i] = x[i];
}

void take_maximum(ncclDataType_t type, std::byte* to, const std::byte* from, std::size_t count) {
  switch (type) {
    case ncclBfloat16:
      return take_maximum<moe::bf16>(to, from, count);
    case ncclFloat32:
      return take_maximum<float>(to, from, count);
    case ncclFloat64:
      return take_maximum<double>(to, from, count);
    default:
      return take_maximum<std::int64_t>(to, from, count);
  }
}

std::mutex registry_mutex;
std::map<std::uint64_t, std::shared_ptr<Clique>>& registry() {
  static auto* instance = new std::map<std::uint64_t, std::shared_ptr<Clique>>;
  return *instance;
}

/// Work that is under way may outlive its communicator.
void forget(ncclComm* comm) {
  static auto* all = new std::vector<std::unique_ptr<ncclComm>>;
  const std::lock_guard lock(registry_mutex);
  all->emplace_back(comm);
  --open;
}

}  // namespace

namespace moe::fake {

void lose_rank(int rank) { lost_rank = rank; }
void set_nccl_version(int code) { version_here = code; }
void refuse_start(bool on) { refused = on; }
int aborted_communicators() { return aborted; }
int open_communicators() { return open; }

}  // namespace moe::fake

ncclResult_t ncclGetVersion(int* version) {
  *version = version_here;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited or there was a network error"
                                   : "unhandled system error";
}
const char* ncclGetLastError(ncclComm_t) { return "words of the fake"; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<std::uint64_t> last{0};
  const std::uint64_t number = ++last;
  std::memset(id, 0, sizeof *id);
  // In the last bytes: all 128 have to travel.
  std::memcpy(id->internal + sizeof id->internal - sizeof number, &number, sizeof number);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  EXPECT_EQ(config->size, sizeof *config);
  EXPECT_GT(config->maxCTAs, 0);
  if (refused) return ncclSystemError;
  std::uint64_t number = 0;
  std::memcpy(&number, id.internal + sizeof id.internal - sizeof number, sizeof number);
  std::shared_ptr<Clique> clique;
  {
    const std::lock_guard lock(registry_mutex);
    auto& entry = registry()[number];
    if (entry == nullptr) entry = std::make_shared<Clique>();
    clique = entry;
  }
  std::unique_lock lock(clique->mutex);
  clique->devices.push_back(moe::fake::device_of_thread());
  ++clique->joined;
  clique->changed.notify_all();
  clique->changed.wait(lock, [&] { return clique->joined >= size; });
  EXPECT_EQ(clique->joined, size);
  *comm = new ncclComm{clique, rank, size};
  ++open;
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  EXPECT_EQ(comm->under_way, 0) << "a communicator is destroyed with work under way";
  forget(comm);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    const std::lock_guard lock(comm->clique->mutex);
    comm->stopped = true;
    comm->clique->changed.notify_all();
  }
  ++aborted;
  forget(comm);
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  const std::lock_guard lock(comm->clique->mutex);
  *error = std::ranges::count(comm->clique->devices, lost_rank.load()) > 0 ? ncclRemoteError
                                                                           : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (--group_depth > 0) return ncclSuccess;
  return launch(std::exchange(grouped, {}));
}

ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return submit({comm, stream, "send", {{peer, bytes_of(from), count * size_of(type)}}, {}, {}});
}

ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return submit({comm, stream, "send", {}, {{peer, bytes_of(to), count * size_of(type)}}, {}});
}

ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
  const std::size_t n = count * size_of(type);
  Call call{comm, stream, "broadcast", {}, {}, {}};
  if (comm->rank == root) {
    for (int p = 0; p < comm->size; ++p)
      if (p != root) call.sends.push_back({p, bytes_of(from), n});
    call.finish = [=] { std::memmove(to, from, n); };
  } else {
    call.receives.push_back({root, bytes_of(to), n});
  }
  return submit(std::move(call));
}

ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  const std::size_t n = count * size_of(type);
  Call call{comm, stream, "all_gather", {}, {}, {}};
  for (int p = 0; p < comm->size; ++p) {
    if (p == comm->rank) continue;
    call.sends.push_back({p, bytes_of(from), n});
    call.receives.push_back({p, bytes_of(to) + std::size_t(p) * n, n});
  }
  call.finish = [=, rank = comm->rank] {
    std::memmove(bytes_of(to) + std::size_t(rank) * n, from, n);
  };
  return submit(std::move(call));
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  EXPECT_EQ(op, ncclMax) << "sums are ours to make: NCCL's order is not the ranks'";
  EXPECT_EQ(from, to);
  const std::size_t n = count * size_of(type);
  Call call{comm, stream, "all_reduce", {}, {}, {}};
  const auto received = std::make_shared<std::vector<std::byte>>(n * std::size_t(comm->size));
  for (int p = 0; p < comm->size; ++p) {
    if (p == comm->rank) continue;
    call.sends.push_back({p, bytes_of(from), n});
    call.receives.push_back({p, received->data() + std::size_t(p) * n, n});
  }
  call.finish = [=, rank = comm->rank, size = comm->size] {
    for (int p = 0; p < size; ++p)
      if (p != rank) take_maximum(type, bytes_of(to), received->data() + std::size_t(p) * n, count);
  };
  return submit(std::move(call));
}
