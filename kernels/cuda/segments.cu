// SPDX-License-Identifier: Apache-2.0
#include <bit>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/expert_counts.h"
#include "kernels/cuda/score_order.h"
#include "kernels/cuda/warp_rows.h"

namespace moe {
namespace {

/// Rows of x that one block adds up.
constexpr std::int64_t kSummedRows = 512;

/// A thread per pair, which counts the pairs before it: a segment of n pairs costs n^2 comparisons,
/// read by all threads of a warp at once from the L1 cache. Capacities are an option, and the
/// comparisons of a sequence of 4096 tokens and two experts each take some 20 us.
/// Bytes moved: kept, indices and weights once.
template <class A>
__global__ void __launch_bounds__(kThreads)
    drop_over_capacity_kernel(std::int32_t* kept, const std::int32_t* indices, const A* weights,
                              const std::int64_t* capacities, std::int64_t pairs,
                              std::int64_t length) {
  each_element(pairs, [=](std::int64_t i) {
    const std::int32_t expert = indices[i];
    const std::int64_t segment = i / length, first = segment * length;
    std::int64_t before = 0;
    for (std::int64_t j = first; expert >= 0 && j < first + length; ++j)
      before += indices[j] == expert && comes_before(weights[j], j, weights[i], i);
    kept[i] = expert >= 0 && before < capacities[segment] ? expert : -1;
  });
}

/// totals[i] = sum of counts[i, :], a warp per row. Bytes moved: the counts once.
__global__ void __launch_bounds__(kThreads)
    add_chunks_kernel(std::int64_t* totals, const std::int32_t* counts, std::int64_t rows,
                      std::int64_t chunks) {
  each_row(rows, [&](std::int64_t row) {
    const std::int64_t total = row_sum<std::int64_t>(
        chunks, [&](std::int64_t c) { return std::int64_t(counts[row * chunks + c]); });
    if (lane_index() == 0) totals[row] = total;
  });
}

/// partial[s, c, :] = the sum over chunk c, of kSummedRows rows, of segment s. Blocks of width *
/// height threads take `width` columns; each thread adds every height-th row, the first row of
/// threads adds up the others. In double, so that a million small terms are not lost. Bytes moved:
/// x once.
template <class A>
__global__ void __launch_bounds__(kThreads)
    partial_sums_kernel(double* partial, const A* x, const std::uint8_t* valid,
                        std::int64_t segments, std::int64_t length, std::int64_t chunks,
                        std::int64_t cols, int width) {
  __shared__ double sums[kThreads];
  const int column_in_block = int(threadIdx.x) % width, row_in_block = int(threadIdx.x) / width;
  const int height = int(blockDim.x) / width;
  const std::int64_t tiles = (cols + width - 1) / width;
  for (std::int64_t block = blockIdx.x; block < segments * chunks * tiles; block += gridDim.x) {
    const std::int64_t column = block % tiles * width + column_in_block, part = block / tiles;
    const std::int64_t segment = part / chunks, first = part % chunks * kSummedRows;
    const std::int64_t last = min(length, first + kSummedRows);
    double sum = 0;
    for (std::int64_t i = first + row_in_block; column < cols && i < last; i += height) {
      const std::int64_t t = segment * length + i;
      if (valid == nullptr || valid[t] != 0) sum += double(x[t * cols + column]);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (row_in_block == 0 && column < cols) {
      for (int row = 1; row < height; ++row) sum += sums[row * width + column_in_block];
      partial[part * cols + column] = sum;
    }
    __syncthreads();  // before the next tile writes sums
  }
}

/// sums[s, :] = sum of partial[s, c, :] in order of c. Bytes moved: 8 per kSummedRows entries of x.
template <class A>
__global__ void __launch_bounds__(kThreads)
    add_partial_sums_kernel(A* sums, const double* partial, std::int64_t size, std::int64_t chunks,
                            std::int64_t cols) {
  each_element(size, [=](std::int64_t i) {
    const std::int64_t segment = i / cols, column = i % cols;
    double sum = 0;
    for (std::int64_t c = 0; c < chunks; ++c)
      sum += partial[(segment * chunks + c) * cols + column];
    sums[i] = A(sum);
  });
}

/// Bytes moved: dx once.
template <class A>
__global__ void __launch_bounds__(kThreads)
    segment_broadcast_kernel(A* dx, const A* dsums, const std::uint8_t* valid, std::int64_t size,
                             std::int64_t length, std::int64_t cols) {
  each_element(size, [=](std::int64_t i) {
    const std::int64_t t = i / cols, column = i % cols;
    dx[i] = valid == nullptr || valid[t] != 0 ? dsums[t / length * cols + column] : A(0);
  });
}

}  // namespace

void CudaBackend::drop_over_capacity(Tensor& kept, const Tensor& indices, const Tensor& weights,
                                     const Tensor& capacities) {
  const std::int64_t pairs = indices.size();
  if (pairs == 0) return;
  for_accumulator(weights.dtype(), [&]<class A>(A) {
    launch(drop_over_capacity_kernel<A>, blocks_for(pairs), kThreads, 0, stream_,
           kept.data<std::int32_t>(), indices.data<std::int32_t>(), weights.data<A>(),
           capacities.data<std::int64_t>(), pairs, pairs / capacities.size());
  });
}

void CudaBackend::count_experts(Tensor& counts, const Tensor& indices) {
  const std::int64_t segments = counts.rows(), experts = counts.cols();
  if (counts.size() == 0) return;
  const std::int64_t chunks = ceil_div(indices.size() / segments, kCountedPairs);
  Tensor parts = Tensor::empty({segments, experts, chunks}, DType::i32, counts.device());
  count_chunks(parts, indices, stream_);
  launch(add_chunks_kernel, blocks_for(counts.size(), kWarps), kThreads, 0, stream_,
         counts.data<std::int64_t>(), parts.data<std::int32_t>(), counts.size(), chunks);
}

void CudaBackend::segment_sum(Tensor& sums, const Tensor& x, const Tensor& valid) {
  const std::int64_t segments = sums.rows(), cols = sums.cols();
  if (sums.size() == 0) return;
  const std::int64_t length = x.rows() / segments, chunks = ceil_div(length, kSummedRows);
  const int width = int(std::min<std::uint64_t>(kWarp, std::bit_ceil(std::uint64_t(cols))));
  Tensor partial = Tensor::empty({segments, chunks, cols}, DType::f64, x.device());
  for_accumulator(x.dtype(), [&]<class A>(A) {
    if (partial.size() > 0)
      launch(partial_sums_kernel<A>, blocks_for(segments * chunks * ceil_div(cols, width), 1),
             kThreads, 0, stream_, partial.data<double>(), x.data<A>(), flags_of(valid), segments,
             length, chunks, cols, width);
    launch(add_partial_sums_kernel<A>, blocks_for(sums.size()), kThreads, 0, stream_,
           sums.data<A>(), partial.data<double>(), sums.size(), chunks, cols);
  });
}

void CudaBackend::segment_broadcast(Tensor& dx, const Tensor& dsums, const Tensor& valid) {
  if (dx.size() == 0) return;
  for_accumulator(dx.dtype(), [&]<class A>(A) {
    launch(segment_broadcast_kernel<A>, blocks_for(dx.size()), kThreads, 0, stream_, dx.data<A>(),
           dsums.data<A>(), flags_of(valid), dx.size(), dx.rows() / dsums.rows(), dx.cols());
  });
}

}  // namespace moe
