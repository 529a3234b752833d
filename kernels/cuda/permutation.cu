// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/expert_counts.h"
#include "kernels/cuda/vector.h"
#include "kernels/cuda/warp_rows.h"

namespace moe {
namespace {

// ---- sorting
// --------------------------------------------------------------------------------------

/// Warps of a block that places rows: their counters share 48 KiB of shared memory.
constexpr unsigned kPlacingWarps = 4;

/// The sum over this lane and the lanes before it.
__device__ __forceinline__ std::int32_t sum_to_lane(std::int32_t x) {
#pragma unroll
  for (int distance = 1; distance < int(kWarp); distance *= 2) {
    const std::int32_t before = __shfl_up_sync(kAllLanes, x, distance);
    if (lane_index() >= distance) x += before;
  }
  return x;
}

/// Turns counts[e, :], by chunks, into what the chunks before hold; totals[e] is the sum. A warp
/// per expert. Bytes moved: the counts read and written.
__global__ void __launch_bounds__(kThreads)
    scan_chunks_kernel(std::int64_t* totals, std::int32_t* counts, std::int64_t experts,
                       std::int64_t chunks) {
  each_row(experts, [&](std::int64_t e) {
    std::int32_t* count = counts + e * chunks;
    std::int32_t before = 0;
    for (std::int64_t first = 0; first < chunks; first += kWarp) {
      const std::int64_t c = first + lane_index();
      const std::int32_t own = c < chunks ? count[c] : 0, sum = sum_to_lane(own);
      if (c < chunks) count[c] = before + sum - own;
      before += __shfl_sync(kAllLanes, sum, int(kWarp) - 1);
    }
    if (lane_index() == 0) totals[e] = before;
  });
}

/// first_rows[e] = the rows of the experts before e in `order` (null: ascending);
/// first_rows[experts] = all rows. One warp. Bytes moved: 16 per expert.
__global__ void __launch_bounds__(kWarp)
    first_rows_kernel(std::int32_t* first_rows, const std::int64_t* totals,
                      const std::int32_t* order, std::int64_t experts) {
  std::int32_t before = 0;
  for (std::int64_t first = 0; first < experts; first += kWarp) {
    const std::int64_t i = first + lane_index();
    const bool there = i < experts;
    const std::int64_t e = there && order != nullptr ? order[i] : i;
    const std::int32_t own = there ? std::int32_t(totals[e]) : 0, sum = sum_to_lane(own);
    if (there) first_rows[e] = before + sum - own;
    before += __shfl_sync(kAllLanes, sum, int(kWarp) - 1);
  }
  if (lane_index() == 0) first_rows[experts] = before;
}

/// Gives every pair its row. A warp takes a chunk, 32 pairs at a time in order, and keeps the next
/// row of each expert in shared memory: pairs of one expert rank by lane. Shared memory: experts
/// i32 per warp. Bytes moved: 12 per pair, and 8 * experts per chunk.
__global__ void __launch_bounds__(kPlacingWarps* kWarp)
    place_kernel(std::int32_t* slot_to_row, std::int32_t* row_to_slot, const std::int32_t* indices,
                 const std::int32_t* first_rows, const std::int32_t* rows_before,
                 std::int64_t slots, std::int64_t chunks, std::int64_t experts) {
  DYNAMIC_SHARED(std::int32_t, counters);
  std::int32_t* next = counters + warp_index() * experts;
  const std::int64_t placed = first_rows[experts];
  const unsigned lanes_before = (1u << lane_index()) - 1;
  for (std::int64_t chunk = std::int64_t(blockIdx.x) * kPlacingWarps + warp_index(); chunk < chunks;
       chunk += std::int64_t(gridDim.x) * kPlacingWarps) {
    each_entry(experts,
               [&](std::int64_t e) { next[e] = first_rows[e] + rows_before[e * chunks + chunk]; });
    __syncwarp();
    const std::int64_t begin = chunk * kCountedPairs, end = min(slots, begin + kCountedPairs);
    for (std::int64_t first = begin; first < end; first += kWarp) {
      const std::int64_t slot = first + lane_index();
      const std::int32_t e = slot < end ? indices[slot] : -1;
      const unsigned same = __match_any_sync(kAllLanes, e);
      const int rank = __popc(same & lanes_before);
      const std::int32_t row = e < 0 ? -1 : next[e] + rank;
      __syncwarp();
      if (e >= 0 && rank == 0) next[e] += __popc(same);
      __syncwarp();
      if (slot >= end) continue;
      slot_to_row[slot] = row;
      if (row >= 0) row_to_slot[row] = std::int32_t(slot);
      if (slot >= placed) row_to_slot[slot] = -1;
    }
  }
}

// ---- moving rows
// ----------------------------------------------------------------------------------

/// Threads of a block that takes a row of `vectors` vectors.
unsigned threads_for(std::int64_t vectors) {
  return unsigned(std::clamp<std::int64_t>(ceil_div(vectors, kWarp) * kWarp, kWarp, kThreads));
}

/// Rows of `units` units each, which may be 16 bytes or less. A block per row. Bytes moved: y once
/// and as much of x.
template <class Unit>
__global__ void __launch_bounds__(kThreads)
    gather_rows_kernel(Unit* y, const Unit* x, const std::int32_t* index, std::int64_t rows,
                       std::int64_t units, std::int64_t divisor) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const std::int32_t source = index[row];
    const Unit* from = x + source / divisor * units;
    for (std::int64_t j = threadIdx.x; j < units; j += blockDim.x)
      y[row * units + j] = source < 0 ? Unit{} : from[j];
  }
}

template <class Unit>
void gather_units(Tensor& y, const Tensor& x, const Tensor& index, std::int64_t units,
                  std::int64_t divisor, cudaStream_t stream) {
  launch(gather_rows_kernel<Unit>, blocks_for(y.rows(), 1), threads_for(units), 0, stream,
         reinterpret_cast<Unit*>(y.bytes()), reinterpret_cast<const Unit*>(x.bytes()),
         index.data<std::int32_t>(), y.rows(), units, divisor);
}

/// A block per token, a thread per vector of its columns. Bytes moved: y once and the token's rows
/// once.
template <class T>
__global__ void __launch_bounds__(kThreads)
    combine_forward_kernel(T* y, const T* rows, const Acc<T>* weights,
                           const std::int32_t* slot_to_row, std::int64_t tokens, std::int64_t cols,
                           std::int64_t k, Acc<T> factor, bool whole) {
  using A = Acc<T>;
  constexpr int N = kWidth<T>;
  for (std::int64_t t = blockIdx.x; t < tokens; t += gridDim.x) {
    for (std::int64_t c = std::int64_t(threadIdx.x) * N; c < cols;
         c += std::int64_t(blockDim.x) * N) {
      A sum[N] = {};
      for (std::int64_t s = t * k; s < (t + 1) * k; ++s) {
        const std::int64_t row = slot_to_row[s];
        if (row < 0) continue;
        const A w = weights == nullptr ? A(1) : weights[s];
        const Vector<T, N> x = load<N>(rows + row * cols + c, cols - c, whole);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += w * widen(x.at[i]);
      }
      Vector<T, N> out;
#pragma unroll
      for (int i = 0; i < N; ++i) out.at[i] = narrow<T>(factor * sum[i]);
      store<N>(y + t * cols + c, out, cols - c, whole);
    }
  }
}

/// A warp per pair: the pairs of a token are neighbours, so dy comes from the caches for all but
/// one. Bytes moved: dy, rows and drows once.
template <class T>
__global__ void __launch_bounds__(kThreads)
    combine_backward_kernel(T* drows, Acc<T>* dweights, const T* dy, const T* rows,
                            const Acc<T>* weights, const std::int32_t* slot_to_row,
                            std::int64_t slots, std::int64_t cols, std::int64_t k, Acc<T> factor,
                            bool whole) {
  using A = Acc<T>;
  constexpr int N = kWidth<T>;
  each_row(slots, [&](std::int64_t s) {
    const std::int64_t row = slot_to_row[s];
    A dot = 0;
    if (row >= 0) {
      const A w = factor * (weights == nullptr ? A(1) : weights[s]);
      const T *g = dy + s / k * cols, *x = rows + row * cols;
      T* dx = drows + row * cols;
      for (std::int64_t c = lane_index() * N; c < cols; c += kWarp * N) {
        const Vector<T, N> gv = load<N>(g + c, cols - c, whole),
                           xv = load<N>(x + c, cols - c, whole);
        Vector<T, N> out;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          dot += widen(gv.at[i]) * widen(xv.at[i]);
          out.at[i] = narrow<T>(w * widen(gv.at[i]));
        }
        store<N>(dx + c, out, cols - c, whole);
      }
    }
    dot = warp_sum(dot);
    if (lane_index() == 0) dweights[s] = factor * dot;
  });
}

}  // namespace

void CudaBackend::sort_by_expert(Tensor& counts, Tensor& slot_to_row, Tensor& row_to_slot,
                                 const Tensor& indices, const Tensor& order) {
  const std::int64_t experts = counts.size(), slots = indices.size();
  if (experts == 0) return;
  const Device device = indices.device();
  const std::int64_t chunks = ceil_div(slots, kCountedPairs);
  Tensor rows_before = Tensor::empty({1, experts, chunks}, DType::i32, device);
  Tensor first_rows = Tensor::empty({experts + 1}, DType::i32, device);
  count_chunks(rows_before, indices, stream_);
  launch(scan_chunks_kernel, blocks_for(experts, kWarps), kThreads, 0, stream_,
         counts.data<std::int64_t>(), rows_before.data<std::int32_t>(), experts, chunks);
  if (slots == 0) return;
  launch(first_rows_kernel, 1, kWarp, 0, stream_, first_rows.data<std::int32_t>(),
         counts.data<std::int64_t>(), order.defined() ? order.data<std::int32_t>() : nullptr,
         experts);
  launch(place_kernel, blocks_for(chunks, kPlacingWarps), kPlacingWarps * kWarp,
         kPlacingWarps * std::size_t(experts) * sizeof(std::int32_t), stream_,
         slot_to_row.data<std::int32_t>(), row_to_slot.data<std::int32_t>(),
         indices.data<std::int32_t>(), first_rows.data<std::int32_t>(),
         rows_before.data<std::int32_t>(), slots, chunks, experts);
}

void CudaBackend::gather_rows(Tensor& y, const Tensor& x, const Tensor& index,
                              std::int64_t divisor) {
  if (y.size() == 0) return;
  const auto size = std::int64_t(size_of(x.dtype()));
  const std::int64_t bytes = size * x.cols();
  if (bytes % 16 == 0 && aligned(y.bytes(), x.bytes()))
    gather_units<uint4>(y, x, index, bytes / 16, divisor, stream_);
  else if (size == 8)
    gather_units<std::uint64_t>(y, x, index, x.cols(), divisor, stream_);
  else if (size == 4)
    gather_units<std::uint32_t>(y, x, index, x.cols(), divisor, stream_);
  else if (size == 2)
    gather_units<std::uint16_t>(y, x, index, x.cols(), divisor, stream_);
  else
    gather_units<std::uint8_t>(y, x, index, x.cols(), divisor, stream_);
}

void CudaBackend::combine_forward(Tensor& y, const Tensor& rows, const Tensor& weights,
                                  const Tensor& slot_to_row, double factor) {
  if (y.size() == 0) return;
  const std::int64_t cols = y.cols();
  for_float(y.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    T *to = y.data<T>(), *from = rows.data<T>();
    launch(combine_forward_kernel<T>, blocks_for(y.rows(), 1),
           threads_for(ceil_div(cols, kWidth<T>)), 0, stream_, to, from,
           weights.defined() ? weights.data<A>() : nullptr, slot_to_row.data<std::int32_t>(),
           y.rows(), cols, slot_to_row.cols(), A(factor),
           aligned(to, from) && cols % kWidth<T> == 0);
  });
}

void CudaBackend::combine_backward(Tensor& drows, Tensor& dweights, const Tensor& dy,
                                   const Tensor& rows, const Tensor& weights,
                                   const Tensor& slot_to_row, double factor) {
  const std::int64_t slots = slot_to_row.size(), cols = dy.cols();
  if (slots == 0) return;
  for_float(dy.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    T *dx = drows.data<T>(), *g = dy.data<T>(), *x = rows.data<T>();
    launch(combine_backward_kernel<T>, blocks_for(slots, kWarps), kThreads, 0, stream_, dx,
           dweights.data<A>(), g, x, weights.defined() ? weights.data<A>() : nullptr,
           slot_to_row.data<std::int32_t>(), slots, cols, slot_to_row.cols(), A(factor),
           aligned(dx, g, x) && cols % kWidth<T> == 0);
  });
}

}  // namespace moe
