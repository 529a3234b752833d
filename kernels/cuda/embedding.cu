// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/vector.h"

// The gradient of a table sums rows of dy by id. So that the order of the sums is fixed, positions
// are sorted by id, in order within an id: a counting sort over chunks of positions. Its memory is
// vocabulary / 128 bytes for each position.

namespace moe {
namespace {

constexpr int kChunk = 512;
constexpr unsigned kScanThreads = 1024;
constexpr unsigned kSumThreads = 64;

// counts[chunk, v] = 0. Bytes: counts once.
__global__ void __launch_bounds__(kThreads) zero_kernel(std::int64_t size, std::int32_t* counts) {
  for (std::int64_t i = grid_thread(); i < size; i += grid_threads()) counts[i] = 0;
}

// rank[i] = how many positions before i in its chunk have its id; counts[chunk, v] = how many have
// id v. One block for a chunk. Bytes: ids and rank once.
__global__ void __launch_bounds__(kChunk)
    rank_kernel(std::int64_t positions, std::int64_t vocabulary, std::int32_t* rank,
                std::int32_t* counts, const std::int32_t* ids) {
  __shared__ std::int32_t chunk[kChunk];
  const int me = int(threadIdx.x);
  const std::int64_t i = std::int64_t(blockIdx.x) * kChunk + me;
  const std::int32_t id = i < positions ? ids[i] : -1;
  chunk[me] = id;
  __syncthreads();
  if (id < 0) return;
  int before = 0;
  bool last = true;
  for (int j = 0; j < me; ++j) before += chunk[j] == id;
  for (int j = me + 1; j < kChunk; ++j) last = last && chunk[j] != id;
  rank[i] = before;
  if (last) counts[blockIdx.x * vocabulary + id] = before + 1;
}

// counts[chunk, v] becomes the number of positions with id v before the chunk; totals[v] that of
// all. Bytes: counts read and written.
__global__ void __launch_bounds__(kThreads)
    scan_chunks_kernel(std::int64_t chunks, std::int64_t vocabulary, std::int32_t* counts,
                       std::int32_t* totals) {
  for (std::int64_t v = grid_thread(); v < vocabulary; v += grid_threads()) {
    std::int32_t sum = 0;
    for (std::int64_t c = 0; c < chunks; ++c) {
      const std::int32_t count = counts[c * vocabulary + v];
      counts[c * vocabulary + v] = sum;
      sum += count;
    }
    totals[v] = sum;
  }
}

// first[v] = the sum of totals[0, v), for v in [0, vocabulary]. One block. Bytes: totals twice.
__global__ void __launch_bounds__(kScanThreads)
    scan_totals_kernel(std::int64_t vocabulary, std::int32_t* first, const std::int32_t* totals) {
  __shared__ std::int32_t sums[kScanThreads];
  const std::int64_t share = (vocabulary + kScanThreads - 1) / kScanThreads;
  const std::int64_t begin = min(vocabulary, share * threadIdx.x);
  const std::int64_t end = min(vocabulary, begin + share);
  std::int32_t sum = 0;
  for (std::int64_t v = begin; v < end; ++v) sum += totals[v];
  sums[threadIdx.x] = sum;
  for (unsigned distance = 1; distance < kScanThreads; distance *= 2) {
    __syncthreads();
    const std::int32_t before = threadIdx.x >= distance ? sums[threadIdx.x - distance] : 0;
    __syncthreads();
    sums[threadIdx.x] += before;
  }
  std::int32_t at = sums[threadIdx.x] - sum;
  for (std::int64_t v = begin; v < end; ++v) {
    first[v] = at;
    at += totals[v];
  }
  if (threadIdx.x == kScanThreads - 1) first[vocabulary] = at;
}

// order[first[v] + ...] = the positions with id v, ascending. Bytes: ids, rank and order once.
__global__ void __launch_bounds__(kThreads)
    place_kernel(std::int64_t positions, std::int64_t vocabulary, std::int32_t* order,
                 const std::int32_t* ids, const std::int32_t* rank, const std::int32_t* before,
                 const std::int32_t* first) {
  for (std::int64_t i = grid_thread(); i < positions; i += grid_threads()) {
    const std::int32_t id = ids[i];
    if (id >= 0)
      order[first[id] + before[i / kChunk * vocabulary + id] + rank[i]] = std::int32_t(i);
  }
}

// dtable[v, :] = the sum of dy[order[first[v]..first[v + 1]), :]; an id may occur a thousand times
// and more, so in double. blockIdx.y: columns. Bytes: dy and dtable once.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    sum_rows_kernel(std::int64_t vocabulary, std::int64_t cols, bool whole, Acc<T>* dtable,
                    const T* dy, const std::int32_t* order, const std::int32_t* first) {
  using A = Acc<T>;
  constexpr int n = kWidth<T>;
  const std::int64_t step = std::int64_t(gridDim.y) * kSumThreads * n;
  for (std::int64_t v = blockIdx.x; v < vocabulary; v += gridDim.x)
    for (std::int64_t j = (std::int64_t(blockIdx.y) * kSumThreads + threadIdx.x) * n; j < cols;
         j += step) {
      double sums[n] = {};
      for (std::int32_t p = first[v]; p < first[v + 1]; ++p) {
        const Vector<T, n> row = load<n>(dy + order[p] * cols + j, cols - j, whole);
#pragma unroll
        for (int i = 0; i < n; ++i) sums[i] += double(widen(row.at[i]));
      }
      Vector<A, n> out;
#pragma unroll
      for (int i = 0; i < n; ++i) out.at[i] = A(sums[i]);
      store(dtable + v * cols + j, out, cols - j, whole);
    }
}

}  // namespace

void CudaBackend::embedding_forward(Tensor& y, const Tensor& table, const Tensor& ids) {
  gather_rows(y, table, ids, 1);
}

void CudaBackend::embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) {
  const std::int64_t vocabulary = dtable.rows(), cols = dtable.cols(), positions = ids.size();
  if (dtable.size() == 0) return;
  const std::int64_t chunks = ceil_div(positions, kChunk);
  const auto scratch = [&](std::int64_t size) {
    return Tensor::empty({size}, DType::i32, dtable.device());
  };
  const Tensor ranks = scratch(positions), counts = scratch(chunks * vocabulary),
               totals = scratch(vocabulary), firsts = scratch(vocabulary + 1),
               sorted = scratch(positions);
  const auto at = [](const Tensor& t) { return t.data<std::int32_t>(); };
  if (positions > 0) {
    launch(zero_kernel, blocks_for(counts.size()), kThreads, 0, stream_, counts.size(), at(counts));
    launch(rank_kernel, dim3(unsigned(chunks)), kChunk, 0, stream_, positions, vocabulary,
           at(ranks), at(counts), at(ids));
  }
  launch(scan_chunks_kernel, blocks_for(vocabulary), kThreads, 0, stream_, chunks, vocabulary,
         at(counts), at(totals));
  launch(scan_totals_kernel, 1, kScanThreads, 0, stream_, vocabulary, at(firsts), at(totals));
  if (positions > 0)
    launch(place_kernel, blocks_for(positions), kThreads, 0, stream_, positions, vocabulary,
           at(sorted), at(ids), at(ranks), at(counts), at(firsts));
  for_float(dy.dtype(), [&]<class T>(T) {
    Acc<T>* out = dtable.data<Acc<T>>();
    const T* in = dy.data<T>();
    const dim3 blocks(blocks_for(vocabulary, 1).x,
                      blocks_for(ceil_div(cols, kWidth<T>), kSumThreads).x);
    launch(sum_rows_kernel<T>, blocks, kSumThreads, 0, stream_, vocabulary, cols,
           aligned(out, in) && cols % kWidth<T> == 0, out, in, at(sorted), at(firsts));
  });
}

}  // namespace moe
