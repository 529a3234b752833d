// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "core/error.h"
#include "kernels/cuda/hopper.h"
#include "support/fiber.h"

namespace moe::hopper {
namespace {

using emulator::acquire;
using emulator::release;

// Where the block's dynamic shared memory begins: not at a multiple of 1024, as on a device with
// static shared memory before it.
constexpr unsigned kFirstAddress = 1024 + 16;

struct Copy {
  unsigned to;  // shared address
  TensorMap map;  // the thread that began it may have ended
  std::array<int, 3> at;
};

struct BarrierState {
  unsigned arrivals = 0, awaited = 0;
  std::int64_t bytes = 0;  // expected and not there yet
  unsigned parity = 0;     // of the phase under way
  std::vector<Copy> copies;
};

struct Product {
  float* sum;
  int columns;
  bool a_k_major, b_k_major;
  std::uint64_t a, b;
};

struct ThreadState {
  std::vector<Product> begun;
  std::deque<std::vector<Product>> groups;
  bool fenced = false;
};

struct Meeting {
  unsigned came = 0, threads = 0;
};

// Of the block that runs.
struct BlockState {
  std::uint64_t number = 0;
  std::map<Barrier*, BarrierState> barriers;
  std::map<unsigned, ThreadState> threads;
  std::map<unsigned, Meeting> meetings;
};

BlockState& block() {
  static BlockState state;
  if (state.number != emulator::block_number()) {
    state = {};
    state.number = emulator::block_number();
  }
  return state;
}

ThreadState& this_thread() { return block().threads[emulator::thread_number()]; }

std::byte* shared(unsigned address) {
  return static_cast<std::byte*>(emulator::dynamic_shared_memory()) + (address - kFirstAddress);
}

// The copy engine and the tensor cores exchange the 16-byte pieces of 8 lines of 128 bytes.
unsigned swizzled(unsigned address) { return address ^ (address >> 3 & 0x70); }

BarrierState& state_of(Barrier* barrier) {
  const auto found = block().barriers.find(barrier);
  if (found == block().barriers.end()) emulator::fail("uses a barrier that was not initialised");
  return found->second;
}

void complete_if_due(Barrier* barrier, BarrierState& s) {
  if (s.awaited > 0 || s.bytes != 0) return;
  s.awaited = s.arrivals;
  s.parity ^= 1;
  emulator::wake(barrier);
}

std::int64_t bytes_of(const TensorMap& map) {
  return std::int64_t(map.box[0]) * map.box[1] * map.box[2] * std::int64_t(sizeof(bf16));
}

void perform(const Copy& copy) {
  const TensorMap& map = copy.map;
  unsigned to = copy.to;
  for (unsigned z = 0; z < map.box[2]; ++z)
    for (unsigned y = 0; y < map.box[1]; ++y)
      for (unsigned x = 0; x < map.box[0]; ++x, to += sizeof(bf16)) {
        const std::int64_t at[3] = {copy.at[0] + std::int64_t(x), copy.at[1] + std::int64_t(y),
                                    copy.at[2] + std::int64_t(z)};
        bool inside = true;
        for (int d = 0; d < 3; ++d) inside &= at[d] >= 0 && at[d] < std::int64_t(map.size[d]);
        bf16 value{};
        if (inside)
          std::memcpy(&value,
                      static_cast<const std::byte*>(map.base) + at[0] * std::int64_t(sizeof(bf16)) +
                          at[1] * std::int64_t(map.stride[0]) + at[2] * std::int64_t(map.stride[1]),
                      sizeof value);
        std::memcpy(shared(swizzled(to)), &value, sizeof value);
      }
}

// Element (mn, k) of an operand: PTX ISA, canonical layouts of wgmma with 128-byte swizzling.
float element(std::uint64_t operand, bool k_major, unsigned mn, unsigned k) {
  const auto field = [&](int bit) { return unsigned(operand >> bit & 0x3fff) << 4; };
  const unsigned start = field(0), leading = field(16), stride = field(32);
  const unsigned offset = k_major ? mn / 8 * stride + mn % 8 * 128 + k * 2
                                  : mn / 64 * leading + k / 8 * stride + k % 8 * 128 + mn % 64 * 2;
  bf16 value;
  std::memcpy(&value, shared(swizzled(start + offset)), sizeof value);
  return float(value);
}

// What this thread holds of the 64 rows: two of them, and two of every eight columns.
void perform(const Product& p) {
  const unsigned thread = emulator::thread_number() % 128;
  for (unsigned i = 0; i < 2; ++i) {
    const unsigned row = thread / 32 * 16 + thread % 32 / 4 + 8 * i;
    float a[16];
    for (unsigned k = 0; k < 16; ++k) a[k] = element(p.a, p.a_k_major, row, k);
    for (unsigned j = 0; j < unsigned(p.columns) / 8; ++j)
      for (unsigned c = 0; c < 2; ++c) {
        const unsigned column = 8 * j + thread % 4 * 2 + c;
        float& sum = p.sum[4 * j + 2 * i + c];
        for (unsigned k = 0; k < 16; ++k) sum += a[k] * element(p.b, p.b_k_major, column, k);
      }
  }
}

}  // namespace

TensorMap tensor_map(const void* base, const std::uint64_t (&size)[3],
                     const std::uint64_t (&stride)[2], const std::uint32_t (&box)[3]) {
  TensorMap map{base, {}, {}, {}};
  MOE_CHECK(reinterpret_cast<std::uintptr_t>(base) % 16 == 0, "an array at an odd address");
  for (int d = 0; d < 3; ++d) {
    MOE_CHECK(size[d] > 0 && size[d] <= (std::uint64_t{1} << 32) && box[d] > 0 && box[d] <= 256,
              "dimension ", d, " of ", size[d], " elements in boxes of ", box[d]);
    map.size[d] = size[d];
    map.box[d] = box[d];
  }
  for (int d = 0; d < 2; ++d) {
    MOE_CHECK(stride[d] % 16 == 0 && stride[d] < (std::uint64_t{1} << 40), "a stride of ",
              stride[d], " bytes");
    map.stride[d] = stride[d];
  }
  MOE_CHECK(box[0] * sizeof(bf16) <= 128, "a line of ", box[0], " elements is not swizzled");
  return map;
}

unsigned shared_address(const void* p) {
  return kFirstAddress + unsigned(static_cast<const std::byte*>(p) -
                                  static_cast<const std::byte*>(emulator::dynamic_shared_memory()));
}

void init_barrier(Barrier* barrier, unsigned arrivals) {
  BarrierState s;
  s.arrivals = s.awaited = arrivals;
  block().barriers[barrier] = std::move(s);
}

void arrive(Barrier* barrier) {
  BarrierState& s = state_of(barrier);
  if (s.awaited == 0) emulator::fail("comes to a barrier that awaits nobody");
  release(barrier);
  --s.awaited;
  complete_if_due(barrier, s);
}

void arrive_expecting(Barrier* barrier, unsigned bytes) {
  state_of(barrier).bytes += bytes;
  arrive(barrier);
}

void wait(Barrier* barrier, unsigned parity) {
  while (state_of(barrier).parity == parity) {
    BarrierState& s = state_of(barrier);
    acquire(barrier);
    const std::vector<Copy> copies = std::exchange(s.copies, {});
    for (const Copy& copy : copies) {
      perform(copy);
      s.bytes -= bytes_of(copy.map);
    }
    if (!copies.empty()) {
      release(barrier);
      complete_if_due(barrier, s);
    } else {
      emulator::wait_for(barrier);
    }
  }
  acquire(barrier);
}

void load_box(void* to, const TensorMap& map, Barrier* barrier, int x, int y, int z) {
  const unsigned address = shared_address(to);
  if (address % 1024 != 0) emulator::fail("loads a box to an address that is no multiple of 1024");
  release(barrier);
  state_of(barrier).copies.push_back({address, map, {x, y, z}});
  emulator::wake(barrier);
}

void meet(unsigned number, unsigned threads) {
  Meeting& m = block().meetings[number];
  m.threads = threads;
  release(&m);
  if (++m.came == threads) {
    m.came = 0;
    emulator::wake(&m);
  } else {
    emulator::wait_for(&m);
  }
  acquire(&m);
}

void begin_products() { this_thread().fenced = true; }

void multiply(float* sum, int columns, bool a_k_major, bool b_k_major, std::uint64_t a,
              std::uint64_t b) {
  if (!this_thread().fenced) emulator::fail("multiplies without begin_products()");
  if (a >> 62 != 1 || b >> 62 != 1) emulator::fail("multiplies what is not swizzled by 128 bytes");
  this_thread().begun.push_back({sum, columns, a_k_major, b_k_major, a, b});
}

void end_products() {
  ThreadState& t = this_thread();
  t.groups.push_back(std::exchange(t.begun, {}));
  t.fenced = false;
}

void wait_products_but(int pending) {
  ThreadState& t = this_thread();
  for (; int(t.groups.size()) > pending; t.groups.pop_front())
    for (const Product& p : t.groups.front()) perform(p);
  // An instruction of the whole warp.
  __syncwarp();
}

}  // namespace moe::hopper
