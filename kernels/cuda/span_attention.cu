// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/span_tiles.h"

// Attention over spans of keys, in the tiles of span_tiles.h.

namespace moe {
namespace {

template <class T, int kParts>
__global__ void __launch_bounds__(kThreads, 2)
    span_forward_kernel(Spans at, Acc<T> scale, T* out, Acc<T>* lse, const T* q, const T* k,
                        const T* v) {
  using A = Acc<T>;
  constexpr int kRows = kWarpRows<A>;
  DYNAMIC_SHARED(A, memory);
  const int d = at.head_dim;
  const SharedTiles<A> tiles(memory, d, 1, 2);
  A* weights = tiles.weights(0);
  const int row_tiles = (at.rows + kBlockRows<A> - 1) / kBlockRows<A>;
  for (std::int64_t tile = blockIdx.x; tile < std::int64_t(row_tiles) * at.heads;
       tile += gridDim.x) {
    const int first = int(tile / at.heads) * kBlockRows<A>, h = int(tile % at.heads);
    const int head = h / at.head_group() * d;
    const BlockSpans spans(at, first, kBlockRows<A>);
    __syncthreads();  // the last tile's rows are done
    load_tile(tiles.own(0), kBlockRows<A>, q + h * d, at.q_stride(), first, at.rows, d);
    A sums[kRows][kParts] = {}, largest[kRows], total[kRows] = {};
    for (A& x : largest) x = -INFINITY;
    for (int key = spans.first_key; key < spans.end_key; key += int(kWarp)) {
      if (!spans.see(key)) continue;
      __syncthreads();  // the last keys are done
      load_tile(tiles.passing(0), int(kWarp), k + head, at.kv_stride(), key, at.keys, d);
      load_tile(tiles.passing(1), int(kWarp), v + head, at.kv_stride(), key, at.keys, d);
      __syncthreads();
      A scores[kRows];
      dots(scores, tiles.own_rows(0), tiles.passing(0), d);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool seen = spans.sees<kRows>(i, key + lane_index());
        const A score = seen ? scale * scores[i] : A(-INFINITY);
        const A now = fmax(largest[i], warp_max(score));
        const A keep = largest[i] == A(-INFINITY) ? A(0) : exp(largest[i] - now);
        const A weight = seen ? exp(score - now) : A(0);
        weights[i * int(kWarp) + lane_index()] = weight;
        total[i] = total[i] * keep + weight;
        largest[i] = now;
#pragma unroll
        for (int part = 0; part < kParts; ++part) sums[i][part] *= keep;
      }
      __syncwarp();
      add_rows(sums, weights, tiles.passing(1), d);
      __syncwarp();  // before the next weights
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const std::int64_t row = first + warp_index() * kRows + i;
      const A all = warp_sum(total[i]);
      if (row >= at.rows) continue;
      store_row(out + row * at.q_stride() + h * d, sums[i], A(1) / all, d);
      if (lane_index() == 0) lse[row * at.heads + h] = largest[i] + log(all);
    }
  }
}

// dq, and delta[row, h] = <dout, out>, which dk and dv need too.
template <class T, int kParts>
__global__ void __launch_bounds__(kThreads, 2)
    span_dq_kernel(Spans at, Acc<T> scale, T* dq, Acc<T>* delta, const T* dout, const T* q,
                   const T* k, const T* v, const T* out, const Acc<T>* lse) {
  using A = Acc<T>;
  constexpr int kRows = kWarpRows<A>;
  DYNAMIC_SHARED(A, memory);
  const int d = at.head_dim;
  const SharedTiles<A> tiles(memory, d, 2, 2);
  A* weights = tiles.weights(0);
  const int row_tiles = (at.rows + kBlockRows<A> - 1) / kBlockRows<A>;
  for (std::int64_t tile = blockIdx.x; tile < std::int64_t(row_tiles) * at.heads;
       tile += gridDim.x) {
    const int first = int(tile / at.heads) * kBlockRows<A>, h = int(tile % at.heads);
    const int head = h / at.head_group() * d;
    const BlockSpans spans(at, first, kBlockRows<A>);
    __syncthreads();  // the last tile's rows are done
    load_tile(tiles.own(0), kBlockRows<A>, q + h * d, at.q_stride(), first, at.rows, d);
    load_tile(tiles.own(1), kBlockRows<A>, dout + h * d, at.q_stride(), first, at.rows, d);
    __syncthreads();
    A sums[kRows][kParts] = {}, mean[kRows], stored[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const std::int64_t row = first + warp_index() * kRows + i;
      const bool there = row < at.rows;
      mean[i] = row_sum<A>(there ? d : 0, [&](std::int64_t e) {
        return tiles.own_rows(1)[i * tiles.stride + e] *
               A(widen(out[row * at.q_stride() + h * d + e]));
      });
      stored[i] = there ? lse[row * at.heads + h] : A(0);
      if (there && lane_index() == 0) delta[row * at.heads + h] = mean[i];
    }
    for (int key = spans.first_key; key < spans.end_key; key += int(kWarp)) {
      if (!spans.see(key)) continue;
      __syncthreads();  // the last keys are done
      load_tile(tiles.passing(0), int(kWarp), k + head, at.kv_stride(), key, at.keys, d);
      load_tile(tiles.passing(1), int(kWarp), v + head, at.kv_stride(), key, at.keys, d);
      __syncthreads();
      A scores[kRows], dp[kRows];
      dots(scores, tiles.own_rows(0), tiles.passing(0), d);
      dots(dp, tiles.own_rows(1), tiles.passing(1), d);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool seen = spans.sees<kRows>(i, key + lane_index());
        weights[i * int(kWarp) + lane_index()] =
            seen ? scale * exp(scale * scores[i] - stored[i]) * (dp[i] - mean[i]) : A(0);
      }
      __syncwarp();
      add_rows(sums, weights, tiles.passing(0), d);
      __syncwarp();  // before the next weights
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const std::int64_t row = first + warp_index() * kRows + i;
      if (row < at.rows) store_row(dq + row * at.q_stride() + h * d, sums[i], A(1), d);
    }
  }
}

// dk and dv of a tile of keys: over the groups in their order, of each the rows that see the tile.
template <class T, int kParts>
__global__ void __launch_bounds__(kThreads, 2)
    span_dkv_kernel(Spans at, Acc<T> scale, T* dk, T* dv, const T* dout, const T* q, const T* k,
                    const T* v, const Acc<T>* lse, const Acc<T>* delta) {
  using A = Acc<T>;
  constexpr int kRows = kWarpRows<A>;
  DYNAMIC_SHARED(A, memory);
  const int d = at.head_dim;
  const SharedTiles<A> tiles(memory, d, 2, 2);
  A *ps = tiles.weights(0), *dscores = tiles.weights(1);
  const int key_tiles = (at.keys + kBlockRows<A> - 1) / kBlockRows<A>;
  for (std::int64_t tile = blockIdx.x; tile < std::int64_t(key_tiles) * at.kv_heads;
       tile += gridDim.x) {
    const int first = int(tile / at.kv_heads) * kBlockRows<A>, kv_head = int(tile % at.kv_heads);
    const int last = min(at.keys, first + kBlockRows<A>), own = first + warp_index() * kRows;
    __syncthreads();  // the last tile's keys are done
    load_tile(tiles.own(0), kBlockRows<A>, k + kv_head * d, at.kv_stride(), first, last, d);
    load_tile(tiles.own(1), kBlockRows<A>, v + kv_head * d, at.kv_stride(), first, last, d);
    A dkeys[kRows][kParts] = {}, dvalues[kRows][kParts] = {};

    const auto add_tile = [&](int h, int from, int until) {
      __syncthreads();  // the last rows are done
      load_tile(tiles.passing(0), int(kWarp), q + h * d, at.q_stride(), from, until, d);
      load_tile(tiles.passing(1), int(kWarp), dout + h * d, at.q_stride(), from, until, d);
      __syncthreads();
      const int row = from + lane_index();
      const bool there = row < until;
      const std::int64_t at_row = std::int64_t(row) * at.heads + h;
      const int begin = there ? at.begin[row] : 0, end = there ? at.end[row] : 0;
      const A stored = there ? lse[at_row] : A(0), mean = there ? delta[at_row] : A(0);
      A scores[kRows], dp[kRows];
      dots(scores, tiles.own_rows(0), tiles.passing(0), d);
      dots(dp, tiles.own_rows(1), tiles.passing(1), d);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool seen = begin <= own + i && own + i < end;
        const A p = seen ? exp(scale * scores[i] - stored) : A(0);
        ps[i * int(kWarp) + lane_index()] = p;
        dscores[i * int(kWarp) + lane_index()] = scale * p * (dp[i] - mean);
      }
      __syncwarp();
      add_rows(dvalues, ps, tiles.passing(1), d);
      add_rows(dkeys, dscores, tiles.passing(0), d);
      __syncwarp();  // before the next weights
    };
    for (int segment =
             first_with(0, at.segments, [&](int s) { return at.key_offsets[s + 1] > first; });
         segment < at.segments && at.key_offsets[segment] < last; ++segment)
      for (int group = 0; group < at.groups; ++group) {
        const std::int32_t* run = at.query_offsets + group * at.segments + segment;
        const int from = first_with(run[0], run[1], [&](int r) { return at.end[r] > first; });
        const int until = first_with(from, run[1], [&](int r) { return at.begin[r] >= last; });
        for (int h = kv_head * at.head_group(); h < (kv_head + 1) * at.head_group(); ++h)
          for (int row = from; row < until; row += int(kWarp)) add_tile(h, row, until);
      }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const std::int64_t to = std::int64_t(own + i) * at.kv_stride() + kv_head * d;
      if (own + i >= last) continue;
      store_row(dk + to, dkeys[i], A(1), d);
      store_row(dv + to, dvalues[i], A(1), d);
    }
  }
}

// f(the number of a lane's columns, as a type)
template <class F>
void for_parts(std::int64_t head_dim, F&& f) {
  MOE_CHECK(head_dim <= 256, "span attention over heads of ", head_dim, " columns; at most 256");
  if (head_dim <= 64)
    f(std::integral_constant<int, 2>());
  else if (head_dim <= 128)
    f(std::integral_constant<int, 4>());
  else
    f(std::integral_constant<int, 8>());
}

template <class A>
dim3 blocks_for_tiles(std::int64_t rows, std::int64_t heads) {
  return blocks_for(ceil_div(rows, kBlockRows<A>) * heads, 1);
}

}  // namespace

void CudaBackend::span_attention_forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                         const Tensor& v, const AttentionSpans& spans,
                                         const SpanAttentionShape& shape) {
  const Spans at(shape, spans, k);
  if (q.size() == 0) return;
  for_float(q.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    for_parts(shape.head_dim, [&]<int kParts>(std::integral_constant<int, kParts>) {
      launch(span_forward_kernel<T, kParts>, blocks_for_tiles<A>(q.rows(), shape.heads), kThreads,
             SharedTiles<A>::bytes(at.head_dim, 1, 2, 1), stream_, at,
             A(1 / std::sqrt(double(at.head_dim))), out.data<T>(), lse.data<A>(), q.data<T>(),
             k.data<T>(), v.data<T>());
    });
  });
}

void CudaBackend::span_attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                                          const Tensor& q, const Tensor& k, const Tensor& v,
                                          const Tensor& out, const Tensor& lse,
                                          const AttentionSpans& spans,
                                          const SpanAttentionShape& shape) {
  const Spans at(shape, spans, k);
  const Tensor deltas = empty_like(lse);
  for_float(q.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    const A scale = A(1 / std::sqrt(double(at.head_dim)));
    for_parts(shape.head_dim, [&]<int kParts>(std::integral_constant<int, kParts>) {
      if (q.size() > 0)
        launch(span_dq_kernel<T, kParts>, blocks_for_tiles<A>(q.rows(), shape.heads), kThreads,
               SharedTiles<A>::bytes(at.head_dim, 2, 2, 1), stream_, at, scale, dq.data<T>(),
               deltas.data<A>(), dout.data<T>(), q.data<T>(), k.data<T>(), v.data<T>(),
               out.data<T>(), lse.data<A>());
      if (k.size() > 0)
        launch(span_dkv_kernel<T, kParts>, blocks_for_tiles<A>(k.rows(), shape.kv_heads), kThreads,
               SharedTiles<A>::bytes(at.head_dim, 2, 2, 2), stream_, at, scale, dk.data<T>(),
               dv.data<T>(), dout.data<T>(), q.data<T>(), k.data<T>(), v.data<T>(), lse.data<A>(),
               deltas.data<A>());
    });
  });
}

}  // namespace moe
