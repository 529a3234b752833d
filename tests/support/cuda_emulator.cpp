// SPDX-License-Identifier: Apache-2.0
#include "support/cuda_emulator.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "support/fiber.h"

// Where the compiler put the __shared__ variables of all kernels. Weak: there may be none.
extern "C" {
extern char __start_emulated_shared[] __attribute__((weak));
extern char __stop_emulated_shared[] __attribute__((weak));
}

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace moe::emulator {
namespace {

constexpr unsigned kWarpLanes = 32;
constexpr std::size_t kMaxShared = 227 * 1024;  // Hopper's
constexpr std::uint64_t kPoison = ~std::uint64_t{0};

Order thread_order = Order::forward;
std::uint64_t order_seed = 1;

std::mutex one_grid;  // at a time, whoever launches it
void (*memory_guard)(bool open) = nullptr;
std::atomic<StreamRunner> stream_runner{nullptr};

struct OpenMemory {
  OpenMemory() {
    if (memory_guard != nullptr) memory_guard(true);
  }
  ~OpenMemory() {
    if (memory_guard != nullptr) memory_guard(false);
  }
};

// One CUDA thread. It runs until it waits; whoever ends the wait clears `waiting`.
struct Thread {
  Fiber fiber;
  uint3 index;
  unsigned lane, warp;
  bool waiting, done;
  void* event;      // that it waits for
  Meeting meeting;  // in which warp function it waits
  unsigned mask;
  std::uint64_t value;
  Brought brought;
};

// The block that runs. Blocks run one after the other, so there is one.
struct Block {
  std::vector<Thread> threads;
  std::vector<unsigned> order;
  const std::function<void()>* body = nullptr;
  Thread* current = nullptr;
  unsigned alive = 0, at_barrier = 0;
  std::uint64_t number = 0;
  Votes votes{}, counted{};
  std::string failure;
  std::unique_ptr<char[]> dynamic_shared;
};
Block block;
char barrier_ordering[2];  // addresses by which the thread sanitizer learns of barriers
unsigned barriers = 0;

std::string name_of(const Thread& thread) {
  return str("thread (", thread.index.x, ",", thread.index.y, ",", thread.index.z, ") of block (",
             blockIdx.x, ",", blockIdx.y, ",", blockIdx.z, ")");
}

void wait() {
  Thread& me = *block.current;
  me.waiting = true;
  release(&block.order);  // it may never come back
  while (me.waiting) leave_fiber(me.fiber);
}

void open_barrier() {
  block.counted = block.votes;
  block.votes = {};
  block.at_barrier = 0;
  ++barriers;
  for (Thread& thread : block.threads)
    if (thread.meeting == Meeting::none && thread.event == nullptr) thread.waiting = false;
}

// The lanes of a warp, of which the last may have fewer than 32.
unsigned lanes_of(const Thread& thread) {
  return std::min(kWarpLanes, unsigned(block.threads.size()) - thread.warp * kWarpLanes);
}
Thread& lane_of(const Thread& thread, unsigned lane) {
  return block.threads[thread.warp * kWarpLanes + lane];
}

// Lets the lanes of `mask` go on if all of them have come that still run.
void try_meeting(Thread& one, unsigned mask) {
  Brought brought;
  std::fill_n(brought.values, kWarpLanes, kPoison);
  brought.came = 0;
  for (unsigned lane = 0; lane < lanes_of(one); ++lane) {
    const Thread& thread = lane_of(one, lane);
    if ((mask >> lane & 1) == 0 || thread.done) continue;
    if (thread.meeting == Meeting::none || thread.mask != mask) return;
    brought.values[lane] = thread.value;
    brought.came |= 1u << lane;
  }
  for (unsigned lane = 0; lane < lanes_of(one); ++lane) {
    if ((brought.came >> lane & 1) == 0) continue;
    Thread& thread = lane_of(one, lane);
    if (thread.meeting != one.meeting)
      return fail("meets lanes of its warp that are in another warp function");
    thread.brought = brought;
  }
  for (unsigned lane = 0; lane < lanes_of(one); ++lane)
    if ((brought.came >> lane & 1) != 0) {
      lane_of(one, lane).meeting = Meeting::none;
      lane_of(one, lane).waiting = false;
    }
}

// Those who wait for this thread need not any more.
void finish(Thread& thread) {
  thread.done = true;
  --block.alive;
  if (block.alive > 0 && block.at_barrier == block.alive) open_barrier();
  for (unsigned lane = 0; lane < lanes_of(thread); ++lane) {
    Thread& other = lane_of(thread, lane);
    if (!other.done && other.meeting != Meeting::none) try_meeting(other, other.mask);
  }
}

void thread_main() {
  acquire(&block);
  (*block.body)();
  release(&block.order);
  finish(*block.current);
}

[[noreturn]] void give_up(const std::string& why) {
  acquire(&block.order);
  forget_fibers();
  throw Error("CUDA emulator: " + why);
}

// The threads' turns: round by round, in the chosen order, each until it waits.
void run_block() {
  for (bool any = true; block.alive > 0 && any;) {
    any = false;
    for (const unsigned i : block.order) {
      Thread& thread = block.threads[i];
      if (thread.done || thread.waiting) continue;
      any = true;
      block.current = &thread;
      threadIdx = thread.index;
      enter_fiber(thread.fiber);
      if (!block.failure.empty()) give_up(block.failure);
    }
  }
  if (block.alive == 0) return;
  enum Place { barrier, warp, event };
  const auto waits = [](Place place) {
    return [=](const Thread& t) {
      const Place where = t.event != nullptr ? event : t.meeting != Meeting::none ? warp : barrier;
      return !t.done && where == place;
    };
  };
  const auto& threads = block.threads;
  std::array<std::ptrdiff_t, 3> count{};
  for (const Place p : {barrier, warp, event})
    count[p] = std::count_if(threads.begin(), threads.end(), waits(p));
  const Place most_telling = count[barrier] > 0 ? barrier : count[warp] > 0 ? warp : event;
  const auto& first = *std::find_if(threads.begin(), threads.end(), waits(most_telling));
  give_up(str(name_of(first), " waits for ever: ", count[barrier],
              " threads wait at __syncthreads, ", count[warp], " in warp functions, ", count[event],
              " for an event, of ", threads.size()));
}

// Not by memset: the address sanitizer would object to the zones between the variables. In words,
// because it happens for every block.
__attribute__((no_sanitize_address)) void poison_static_shared() {
  volatile char* p = __start_emulated_shared;
  char* const end = __stop_emulated_shared;
  for (; p < end && reinterpret_cast<std::uintptr_t>(p) % 8 != 0; ++p) *p = char(0xFF);
  for (; p + 8 <= end; p += 8) *reinterpret_cast<volatile std::uint64_t*>(p) = kPoison;
  for (; p < end; ++p) *p = char(0xFF);
}

template <class Index>
std::vector<Index> ordered(Index n, std::mt19937_64& random) {
  std::vector<Index> order(n);
  std::iota(order.begin(), order.end(), Index{0});
  if (thread_order == Order::reverse) std::reverse(order.begin(), order.end());
  if (thread_order == Order::shuffled) std::shuffle(order.begin(), order.end(), random);
  return order;
}

void start_block(std::size_t shared_bytes, std::mt19937_64& random) {
  const dim3 size = blockDim;
  const unsigned count = unsigned(block.threads.size());
  poison_static_shared();
  std::fill_n(block.dynamic_shared.get(), shared_bytes, char(0xFF));
  block.alive = count;
  block.at_barrier = 0;
  ++block.number;
  block.votes = {};
  block.order = ordered(count, random);
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = block.threads[i];
    thread.fiber = make_fiber(i, thread_main);
    thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    thread.lane = i % kWarpLanes;
    thread.warp = i / kWarpLanes;
    thread.waiting = thread.done = false;
    thread.event = nullptr;
    thread.meeting = Meeting::none;
  }
  release(&block);
}

}  // namespace

void set_order(Order order, std::uint64_t seed) {
  thread_order = order;
  order_seed = seed;
}

void set_memory_guard(void (*guard)(bool open)) { memory_guard = guard; }

void set_stream_runner(StreamRunner runner) { stream_runner = runner; }

void run_on_stream(CUstream_st* stream, std::function<void()> work) {
  const StreamRunner runner = stream_runner;
  runner != nullptr ? runner(stream, std::move(work)) : work();
}

// The loop of run_block() throws: a fiber cannot throw past its own stack.
void fail(const char* what) {
  block.failure = str(name_of(*block.current), " ", what);
  release(&block.order);
  for (;;) leave_fiber(block.current->fiber);
}

void run_grid(dim3 grid, dim3 size, std::size_t shared_bytes, const std::function<void()>& thread) {
  const std::uint64_t count = std::uint64_t(size.x) * size.y * size.z;
  const std::uint64_t blocks = std::uint64_t(grid.x) * grid.y * grid.z;
  MOE_CHECK(count >= 1 && count <= 1024 && size.z <= 64, "CUDA takes no block of ", size.x, "x",
            size.y, "x", size.z, " threads");
  MOE_CHECK(blocks >= 1 && grid.x < (1u << 31) && grid.y < (1u << 16) && grid.z < (1u << 16),
            "CUDA takes no grid of ", grid.x, "x", grid.y, "x", grid.z, " blocks");
  MOE_CHECK(shared_bytes <= kMaxShared, shared_bytes, " bytes of shared memory in a block");
  std::mt19937_64 random(order_seed);
  const std::lock_guard lock(one_grid);
  const OpenMemory open;
  gridDim = grid;
  blockDim = size;
  block.body = &thread;
  block.failure.clear();
  block.threads.resize(count);
  block.dynamic_shared.reset(new char[shared_bytes]);
  for (const std::uint64_t i : ordered(blocks, random)) {
    blockIdx = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
    start_block(shared_bytes, random);
    run_block();
    acquire(&block.order);
  }
}

void* dynamic_shared_memory() { return block.dynamic_shared.get(); }

unsigned lane() { return block.current->lane; }
unsigned thread_number() { return block.current->warp * kWarpLanes + block.current->lane; }
std::uint64_t block_number() { return block.number; }

void wait_for(void* event) {
  block.current->event = event;
  wait();
  acquire(event);
}

void wake(void* event) {
  release(event);
  for (Thread& thread : block.threads)
    if (thread.event == event) {
      thread.event = nullptr;
      thread.waiting = false;
    }
}

Votes meet_block(bool vote) {
  void* ordering = &barrier_ordering[barriers % 2];
  release(ordering);
  block.votes.yes += vote;
  ++block.votes.all;
  if (++block.at_barrier == block.alive)
    open_barrier();
  else
    wait();
  acquire(ordering);
  return block.counted;
}

const Brought& meet_lanes(Meeting meeting, unsigned mask, std::uint64_t value) {
  Thread& me = *block.current;
  if ((mask >> me.lane & 1) == 0) fail("calls a warp function whose mask leaves it out");
  // Only __syncwarp orders memory. A warp's own value slot stands for the address of its barrier.
  void* ordering = &lane_of(me, 0).value;
  if (meeting == Meeting::sync) release(ordering);
  me.meeting = meeting;
  me.mask = mask;
  me.value = value;
  me.waiting = true;
  try_meeting(me, mask);
  if (me.waiting) wait();
  if (meeting == Meeting::sync) acquire(ordering);
  return me.brought;
}

}  // namespace moe::emulator
