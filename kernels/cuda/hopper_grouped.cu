// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/grouped_products.h"
#include "kernels/cuda/hopper.h"
#include "kernels/cuda/vector.h"

// The experts' products as one persistent kernel: a block stays on a processor and takes tile after
// tile of the results, of whichever expert. One warpgroup fetches the factors through the copy
// engine into a ring of buffers, two multiply, 64 rows of the tile each. Bound: the tensor cores; a
// tile of 128 x 256 reads 384 numbers per 128 x 256 products.

namespace moe {
namespace {

using hopper::Barrier;
using hopper::kBoxBytes;
using hopper::kBoxElements;
using hopper::kBoxLines;
using hopper::Major;
using hopper::TensorMap;

constexpr int kTileRows = 128, kDepth = 64, kStages = 4;
constexpr unsigned kWarpgroup = 128, kConsumers = 2 * kWarpgroup;
constexpr int kMaxExperts = 256;
static_assert(kDepth == int(kBoxElements) && kDepth == int(kBoxLines));

// up:     hidden_e = x_e w_e^T     a: x, k-major;       b: w, k-major
// down:   y_e = hidden_e w_e       a: hidden, k-major;  b: w, mn-major
// weight: dw_e = hidden_e^T x_e    a: hidden, mn-major; b: x, mn-major
enum class Form { up, down, weight };

// c_e: [m, n], summed over k. Of m (up, down) or k (weight) each expert has its own: its rows.
struct Sizes {
  int experts, m, n, k;
  int rows[kMaxExperts + 1];  // offsets
};

template <Form kForm, int kTileCols>
struct Layout {
  static constexpr Major kA = kForm == Form::weight ? Major::mn : Major::k;
  static constexpr Major kB = kForm == Form::up ? Major::k : Major::mn;
  static constexpr unsigned kBytesA = kTileRows * kDepth * 2, kBytesB = kTileCols * kDepth * 2;
  static constexpr unsigned kStageBytes = kBytesA + kBytesB;
  // The buffers begin at a multiple of 1024; the barriers follow them.
  static constexpr unsigned kSharedBytes =
      1024 + kStages * (kStageBytes + 2 * unsigned(sizeof(Barrier)));
  static_assert(kBytesA % 1024 == 0 && kBytesB % 1024 == 0);
};

__device__ __forceinline__ int tiles_of(int size, int tile) { return (size + tile - 1) / tile; }

// The tiles of this block, one after the other.
template <Form kForm, int kTileCols>
struct Tiles {
  const Sizes& sizes;
  int number = int(blockIdx.x) - int(gridDim.x);  // of the tile, over all experts
  int expert = 0, before = 0;                     // tiles of the experts before
  int row = 0, col = 0, depths = 0;

  __device__ explicit Tiles(const Sizes& s) : sizes(s) {}

  __device__ int first_row() const { return sizes.rows[expert]; }
  __device__ int rows() const { return sizes.rows[expert + 1] - sizes.rows[expert]; }
  __device__ int m() const { return kForm == Form::weight ? sizes.m : rows(); }
  __device__ int k() const { return kForm == Form::weight ? rows() : sizes.k; }

  __device__ bool next() {
    number += int(gridDim.x);
    for (; expert < sizes.experts; ++expert) {
      const int down = tiles_of(m(), kTileRows), tiles = down * tiles_of(sizes.n, kTileCols);
      if (number < before + tiles) {
        row = (number - before) % down * kTileRows;
        col = (number - before) / down * kTileCols;
        depths = tiles_of(k(), kDepth);
        return true;
      }
      before += tiles;
    }
    return false;
  }
};

// A place in the ring.
struct Turn {
  unsigned stage = 0, parity = 0;
  __device__ void advance() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

template <Form kForm, int kTileCols>
__device__ __forceinline__ void fetch(unsigned char* to, const TensorMap& a, const TensorMap& b,
                                      Barrier* full, const Tiles<kForm, kTileCols>& tile,
                                      int depth) {
  using L = Layout<kForm, kTileCols>;
  unsigned char* const to_b = to + L::kBytesA;
  const int k = depth * kDepth;
  if constexpr (kForm == Form::weight) {
    for (int i = 0; i < kTileRows / int(kBoxElements); ++i)
      hopper::load_box(to + i * kBoxBytes, a, full, tile.row + i * int(kBoxElements),
                       tile.first_row() + k, 0);
  } else {
    hopper::load_box(to, a, full, k, tile.first_row() + tile.row, 0);
  }
  if constexpr (kForm == Form::up) {
    hopper::load_box(to_b, b, full, k, tile.col, tile.expert);
  } else {
    const int line = kForm == Form::down ? k : tile.first_row() + k;
    for (int i = 0; i < kTileCols / int(kBoxElements); ++i)
      hopper::load_box(to_b + i * kBoxBytes, b, full, tile.col + i * int(kBoxElements), line,
                       kForm == Form::down ? tile.expert : 0);
  }
}

// Lines from `first` on of every box of a stage become zeros: they belong to the next expert.
// With all threads of the consumers.
template <Form kForm, int kTileCols>
__device__ __forceinline__ void clear_lines(unsigned char* stage, int first) {
  constexpr int kBoxes = int(Layout<kForm, kTileCols>::kStageBytes / kBoxBytes);
  constexpr int kPieces = int(kBoxBytes / kBoxLines / sizeof(uint4));
  const int lines = int(kBoxLines) - first;
  for (int i = int(threadIdx.x - kWarpgroup); i < kBoxes * lines * kPieces; i += int(kConsumers)) {
    const int box = i / (lines * kPieces), line = first + i / kPieces % lines;
    *reinterpret_cast<uint4*>(stage + box * int(kBoxBytes) +
                              (line * kPieces + i % kPieces) * int(sizeof(uint4))) = uint4{};
  }
  hopper::publish_shared_writes();
  hopper::meet(1, kConsumers);
}

// Of a 4 x 4 matrix of which each of four neighbouring lanes has a row, each gets a column.
__device__ __forceinline__ void transpose_quad(unsigned (&v)[4]) {
  const unsigned lane = threadIdx.x % 4;
#pragma unroll
  for (int step = 1; step <= 2; ++step) {
    const bool upper = lane & unsigned(step);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & step) != 0) continue;
      const unsigned other = __shfl_xor_sync(0xffffffffu, upper ? v[i] : v[i + step], step);
      v[i] = upper ? other : v[i];
      v[i + step] = upper ? v[i + step] : other;
    }
  }
}

__device__ __forceinline__ unsigned pack(float low, float high) {
  return unsigned(narrow<bf16>(low).bits) | unsigned(narrow<bf16>(high).bits) << 16;
}
__device__ __forceinline__ float low_half(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(unsigned pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// This thread's sums of one row, from row_sums[4 j + c] for columns 8 j + 2 (lane % 4) + c, to c;
// all lanes of a quad have the same row. `c` is the row's first column of the tile, cols: how many
// of them there are. bf16: a lane writes 8 columns in a row, four lanes 64 bytes.
template <int kTileCols>
__device__ __forceinline__ void store_row(bf16* c, int cols, const float* row_sums, bool inside,
                                          bool add) {
  constexpr int kEights = kTileCols / 8;
  const int lane = int(threadIdx.x % 4);
#pragma unroll
  for (int i = 0; i < kEights; i += 4) {
    unsigned v[4];
#pragma unroll
    for (int t = 0; t < 4; ++t)
      v[t] = i + t < kEights ? pack(row_sums[4 * (i + t)], row_sums[4 * (i + t) + 1]) : 0u;
    float exact[8];
    if (add) {  // the sum is rounded once
      unsigned bits[2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int t = 0; t < 4; ++t)
          bits[half][t] = i + t < kEights ? __float_as_uint(row_sums[4 * (i + t) + half]) : 0u;
        transpose_quad(bits[half]);
      }
#pragma unroll
      for (int t = 0; t < 8; ++t) exact[t] = __uint_as_float(bits[t % 2][t / 2]);
    } else {
      transpose_quad(v);
    }
    const int col = 8 * (i + lane);
    if (!inside || col >= cols || i + lane >= kEights) continue;
    uint4* const to = reinterpret_cast<uint4*>(c + col);
    if (add) {
      const uint4 old = *to;
      const unsigned before[4] = {old.x, old.y, old.z, old.w};
#pragma unroll
      for (int t = 0; t < 4; ++t)
        v[t] = pack(low_half(before[t]) + exact[2 * t], high_half(before[t]) + exact[2 * t + 1]);
    }
    *to = uint4{v[0], v[1], v[2], v[3]};
  }
}

// f32: a lane writes 2 columns, four lanes 32 bytes.
template <int kTileCols>
__device__ __forceinline__ void store_row(float* c, int cols, const float* row_sums, bool inside,
                                          bool add) {
  const int lane = int(threadIdx.x % 4);
#pragma unroll
  for (int j = 0; j < kTileCols / 8; ++j) {
    const int col = 8 * j + 2 * lane;
    if (!inside || col >= cols) continue;
    float2* const to = reinterpret_cast<float2*>(c + col);
    float2 sum = make_float2(row_sums[4 * j], row_sums[4 * j + 1]);
    if (add) {
      const float2 old = *to;
      sum = make_float2(old.x + sum.x, old.y + sum.y);
    }
    *to = sum;
  }
}

template <Form kForm, int kTileCols, class C>
__device__ __forceinline__ void consume(unsigned char* ring, Barrier* full, Barrier* empty, C* c,
                                        const Sizes& sizes, bool add) {
  using L = Layout<kForm, kTileCols>;
  const unsigned thread = threadIdx.x - kWarpgroup, warpgroup = thread / kWarpgroup;
  const unsigned lane = thread % kWarp;
  Tiles<kForm, kTileCols> tile(sizes);
  for (Turn turn; tile.next();) {
    float sum[kTileCols / 2];
#pragma unroll
    for (float& s : sum) s = 0;
    unsigned last_stage = 0;
    for (int depth = 0; depth < tile.depths; ++depth, turn.advance()) {
      unsigned char* const stage = ring + turn.stage * L::kStageBytes;
      hopper::wait(&full[turn.stage], turn.parity);
      if constexpr (kForm == Form::weight) {
        if (const int lines = tile.k() - depth * kDepth; lines < kDepth)
          clear_lines<kForm, kTileCols>(stage, lines);
      }
      const unsigned a = hopper::shared_address(stage) + warpgroup * kBoxBytes;
      const unsigned b = hopper::shared_address(stage) + L::kBytesA;
      hopper::begin_products();
#pragma unroll
      for (unsigned k = 0; k < unsigned(kDepth); k += 16)
        hopper::multiply<L::kA, L::kB>(sum, hopper::operand<L::kA>(a, k),
                                       hopper::operand<L::kB>(b, k));
      hopper::end_products();
      // The products before these have finished: their buffer is free.
      hopper::wait_products<1>();
      if (depth > 0 && lane == 0) hopper::arrive(&empty[last_stage]);
      last_stage = turn.stage;
    }
    hopper::wait_products<0>();
    if (tile.depths > 0 && lane == 0) hopper::arrive(&empty[last_stage]);
    if (add && tile.depths == 0) continue;

    const int row = int(warpgroup * 64 + thread % kWarpgroup / kWarp * 16 + lane / 4);
    const std::int64_t first_row =
        kForm == Form::weight ? std::int64_t(tile.expert) * sizes.m : tile.first_row();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = tile.row + row + half * 8;
      float of_row[kTileCols / 2];
#pragma unroll
      for (int j = 0; j < kTileCols / 8; ++j) {
        of_row[4 * j] = sum[4 * j + 2 * half];
        of_row[4 * j + 1] = sum[4 * j + 2 * half + 1];
      }
      store_row<kTileCols>(c + (first_row + r) * sizes.n + tile.col, sizes.n - tile.col, of_row,
                           r < tile.m(), add);
    }
  }
}

// c: [rows, n] (up, down) or [experts * m, n] (weight), row-major. Shared memory:
// Layout::kSharedBytes.
template <Form kForm, int kTileCols, class C>
__global__ void __launch_bounds__(kWarpgroup + kConsumers, 1)
    grouped_kernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, C* c,
                   const __grid_constant__ Sizes sizes, bool add) {
  using L = Layout<kForm, kTileCols>;
  DYNAMIC_SHARED(unsigned char, shared);
  unsigned char* const ring = shared + (1024 - hopper::shared_address(shared) % 1024) % 1024;
  Barrier* const full = reinterpret_cast<Barrier*>(ring + kStages * L::kStageBytes);
  Barrier* const empty = full + kStages;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      hopper::init_barrier(&full[s], 1);
      hopper::init_barrier(&empty[s], kConsumers / kWarp);
    }
    hopper::publish_barriers();
  }
  __syncthreads();
  if (threadIdx.x >= kWarpgroup) {
    hopper::take_registers<232>();
    consume<kForm, kTileCols>(ring, full, empty, c, sizes, add);
    return;
  }
  hopper::give_registers<40>();
  if (threadIdx.x != 0) return;
  Tiles<kForm, kTileCols> tile(sizes);
  for (Turn turn; tile.next();)
    for (int depth = 0; depth < tile.depths; ++depth, turn.advance()) {
      hopper::wait(&empty[turn.stage], turn.parity ^ 1);
      hopper::arrive_expecting(&full[turn.stage], L::kStageBytes);
      fetch(ring + turn.stage * L::kStageBytes, a, b, &full[turn.stage], tile, depth);
    }
}

// [rows, cols] of a matrix, or of `count` of them one behind the other.
TensorMap map_of(const Tensor& t, std::int64_t cols, std::int64_t rows, std::int64_t count,
                 int box_lines) {
  const auto line = std::uint64_t(cols) * sizeof(bf16);
  return hopper::tensor_map(
      t.bytes(), {std::uint64_t(cols), std::uint64_t(rows), std::uint64_t(count)},
      {line, line * std::uint64_t(rows)}, {kBoxElements, std::uint32_t(box_lines), 1});
}

class HopperGroupedProducts final : public GroupedProducts {
 public:
  HopperGroupedProducts(cudaStream_t stream, int processors)
      : stream_(stream), processors_(unsigned(processors)) {}

  bool serves(DType type, std::int64_t width, const ExpertGroups& g) const override {
    const std::int64_t neurons = g.experts() > 0 ? g.neurons_of(0) : 0;
    for (std::int64_t e = 0; e < g.experts(); ++e)
      if (g.neurons_of(e) != neurons) return false;
    // Lines of whole 16 bytes, and of 128 at least.
    const auto lines = [](std::int64_t n) { return n % 8 == 0 && n >= kBoxElements; };
    return type == DType::bf16 && lines(width) && lines(neurons) && g.rows[0] == 0 &&
           g.neurons[0] == 0 && g.experts() <= kMaxExperts;
  }

  void up(Tensor& hidden, const Tensor& x, const Tensor& w, const ExpertGroups& g) override {
    const std::int64_t rows = x.rows(), width = x.cols(), neurons = g.neurons_of(0);
    if (rows == 0) return;
    // The tile that covers the neurons with the fewest idle columns.
    const auto idle = [&](int cols) { return ceil_div(neurons, cols) * cols; };
    if (idle(176) < idle(256)) {
      start<Form::up, 176>(map_of(x, width, rows, 1, kTileRows),
                           map_of(w, width, neurons, g.experts(), 176), hidden.data<bf16>(),
                           sizes(g, 0, neurons, width), false);
    } else {
      start<Form::up, 256>(map_of(x, width, rows, 1, kTileRows),
                           map_of(w, width, neurons, g.experts(), 256), hidden.data<bf16>(),
                           sizes(g, 0, neurons, width), false);
    }
  }

  void down(Tensor& y, const Tensor& hidden, const Tensor& w, const ExpertGroups& g,
            double beta) override {
    const std::int64_t rows = y.rows(), width = y.cols(), neurons = g.neurons_of(0);
    if (rows == 0) return;
    start<Form::down, 256>(map_of(hidden, neurons, rows, 1, kTileRows),
                           map_of(w, width, neurons, g.experts(), kBoxLines), y.data<bf16>(),
                           sizes(g, 0, width, neurons), beta != 0);
  }

  void weight(Tensor& dw, const Tensor& hidden, const Tensor& x, const ExpertGroups& g,
              double beta) override {
    const std::int64_t rows = x.rows(), width = x.cols(), neurons = g.neurons_of(0);
    if (rows == 0 && beta != 0) return;
    // No array of the copy engine is empty; of this one nothing is read.
    const std::int64_t lines = std::max<std::int64_t>(rows, 1);
    start<Form::weight, 256>(map_of(hidden, neurons, lines, 1, kBoxLines),
                             map_of(x, width, lines, 1, kBoxLines), dw.data<float>(),
                             sizes(g, neurons, width, 0), beta != 0);
  }

 private:
  static Sizes sizes(const ExpertGroups& g, std::int64_t m, std::int64_t n, std::int64_t k) {
    Sizes s{int(g.experts()), int(m), int(n), int(k), {}};
    std::transform(g.rows.begin(), g.rows.end(), s.rows, [](std::int64_t r) { return int(r); });
    return s;
  }

  template <Form kForm, int kTileCols, class C>
  void start(const TensorMap& a, const TensorMap& b, C* c, const Sizes& s, bool add) {
    launch(grouped_kernel<kForm, kTileCols, C>, processors_, kWarpgroup + kConsumers,
           Layout<kForm, kTileCols>::kSharedBytes, stream_, a, b, c, s, add);
  }

  cudaStream_t stream_;
  unsigned processors_;
};

}  // namespace

std::unique_ptr<GroupedProducts> hopper_grouped_products(CUstream_st* stream, int processors) {
  return std::make_unique<HopperGroupedProducts>(stream, processors);
}

}  // namespace moe
