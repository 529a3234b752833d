// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl/fake_device.h"

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/cuda_device.h"
#include "core/error.h"

namespace {

constexpr int kNoPriority = std::numeric_limits<int>::max();
std::atomic<int> paused_priority{kNoPriority};

/// Work in order, by a thread of its own.
struct Queue {
  explicit Queue(int stream_priority) : priority(stream_priority) {}

  void push(std::function<void()> job) {
    const std::lock_guard lock(mutex);
    jobs.push_back(std::move(job));
    changed.notify_one();
  }

  void run() {
    unsigned random = unsigned(priority) * 2654435761u + 12345u;
    for (;;) {
      std::function<void()> job;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [this] { return closing || !jobs.empty(); });
        if (jobs.empty()) return;
        job = std::move(jobs.front());
        jobs.pop_front();
      }
      while (paused_priority == priority) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      random = random * 1664525u + 1013904223u;
      if (random >> 30 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
      job();
    }
  }

  const int priority;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> jobs;
  bool closing = false;
};

}  // namespace

struct CUstream_st {
  explicit CUstream_st(int priority) : queue(std::make_shared<Queue>(priority)) {
    std::thread([q = queue] { q->run(); }).detach();
  }
  ~CUstream_st() {  // what it was given is still done, as CUDA does
    const std::lock_guard lock(queue->mutex);
    queue->closing = true;
    queue->changed.notify_one();
  }
  std::shared_ptr<Queue> queue;
};

struct CUevent_st {
  std::shared_ptr<std::atomic<bool>> passed;  // of the last record; nullptr: none
};

namespace moe {
namespace {

constexpr std::size_t kAlignment = 256;

struct FakeDevice {
  int rank = 0, count = 1;
  std::string bus_id;
  CUstream_st compute{0};
};

struct Block {
  FakeDevice* owner;
  std::size_t bytes;
};

/// Never destroyed: streams and tensors may outlive the tests.
struct Machine {
  std::mutex mutex;
  std::array<FakeDevice, 8> devices;
  std::map<std::byte*, Block> blocks;  // taken or free
  std::map<std::pair<FakeDevice*, std::size_t>, std::vector<std::byte*>> free;

  bool on_device(const void* p) {
    const std::lock_guard lock(mutex);
    auto* const at = const_cast<std::byte*>(static_cast<const std::byte*>(p));
    auto block = blocks.upper_bound(at);
    if (block == blocks.begin()) return false;
    --block;
    return at < block->first + block->second.bytes;
  }
};

Machine& machine() {
  static auto* instance = new Machine;
  return *instance;
}

thread_local FakeDevice* current = nullptr;

FakeDevice& device() {
  MOE_CHECK(current != nullptr, "a thread without a device uses one");
  return *current;
}

}  // namespace

namespace fake {

void use_device(int rank) {
  run_kernels_on_streams();
  current = &machine().devices.at(std::size_t(rank));
  current->rank = rank;
  current->count = int(machine().devices.size());
  current->bus_id = str("0000:0", rank, ":00.0");
}
int device_of_thread() { return device().rank; }
void set_bus_id(const std::string& id) { device().bus_id = id; }
void set_device_count(int count) { device().count = count; }
void enqueue(CUstream_st* stream, std::function<void()> work) {
  stream->queue->push(std::move(work));
}
void pause(int priority) { paused_priority = priority; }
void resume() { paused_priority = kNoPriority; }

}  // namespace fake

bool cuda_available() { return cuda::device_count() > 0; }

namespace cuda {

std::string why_unavailable() { return cuda_available() ? "" : "no device is visible"; }
bool built() { return true; }
int device_count() { return device().count; }
void use_device(int) {}
std::string device_name() { return "fake"; }
std::string bus_id() { return device().bus_id; }
CUstream_st* compute_stream() { return &device().compute; }

void synchronize() {
  std::atomic<bool> done{false};
  fake::enqueue(compute_stream(), [&] {
    done = true;
    done.notify_one();
  });
  done.wait(false);
}

std::byte* take(std::size_t bytes) {
  Machine& m = machine();
  const std::size_t size = (bytes + kAlignment) / kAlignment * kAlignment;
  const std::lock_guard lock(m.mutex);
  std::vector<std::byte*>& free = m.free[{&device(), size}];
  if (!free.empty()) {
    std::byte* const block = free.back();
    free.pop_back();
    return block;
  }
  auto* const block = static_cast<std::byte*>(std::aligned_alloc(kAlignment, size));
  std::memset(block, 0xFF, size);
  m.blocks[block] = {&device(), size};
  return block;
}

void give(std::byte* block) {
  Machine& m = machine();
  const std::lock_guard lock(m.mutex);
  const Block b = m.blocks.at(block);
  fake::enqueue(&b.owner->compute, [block, b] { std::memset(block, 0xFF, b.bytes); });
  m.free[{b.owner, b.bytes}].push_back(block);
}

std::int64_t reserved_bytes() { return 0; }
std::int64_t free_bytes() { return 0; }

void copy_bytes(void* dst, const void* src, std::size_t bytes) {
  if (!machine().on_device(src)) {
    const auto* const first = static_cast<const std::byte*>(src);
    fake::enqueue(compute_stream(), [dst, staged = std::vector(first, first + bytes)] {
      std::memcpy(dst, staged.data(), staged.size());
    });
    return;
  }
  fake::enqueue(compute_stream(), [=] { std::memmove(dst, src, bytes); });
  if (!machine().on_device(dst)) synchronize();
}

void fill_zero(void* dst, std::size_t bytes) {
  fake::enqueue(compute_stream(), [=] { std::memset(dst, 0, bytes); });
}

void mark_phase(const char*) {}

}  // namespace cuda

}  // namespace moe

using namespace moe;

cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  *lowest = 0;
  *highest = fake::kHighestPriority;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int priority) {
  *stream = new CUstream_st(priority);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  auto passed = std::make_shared<std::atomic<bool>>(false);
  event->passed = passed;
  fake::enqueue(stream, [passed] {
    *passed = true;
    passed->notify_all();
  });
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->passed != nullptr)
    fake::enqueue(stream, [passed = event->passed] { passed->wait(false); });
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return event->passed == nullptr || *event->passed ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaMemcpyAsync(void* dst, const void* src, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  fake::enqueue(stream, [=] { std::memmove(dst, src, bytes); });
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t) { return "an error of the fake device"; }
