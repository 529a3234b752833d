// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/run_search.h"
#include "kernels/cuda/warp_rows.h"

namespace moe {

// Attention over spans of keys, in tiles (Dao et al. 2022). A block keeps a tile of rows of its own
// in shared memory, a few for each warp: queries, or for dk and dv keys. Tiles of 32 rows of the
// other kind pass by, one for each lane, so a row's softmax is a warp's. Products are the plain
// ones of the threads.

/// Rows of its own that a warp computes, and a block: fewer where a number takes 8 bytes.
template <class A>
inline constexpr int kWarpRows = sizeof(A) == 8 ? 2 : 4;
template <class A>
inline constexpr int kBlockRows = kWarps* kWarpRows<A>;

/// SpanAttentionShape and AttentionSpans as kernels take them. Indices of elements may pass 2^31,
/// all else is an int.
struct Spans {
  int groups, segments, heads, kv_heads, head_dim, rows, keys;
  const std::int32_t *begin, *end, *query_offsets, *key_offsets;

  Spans(const SpanAttentionShape& s, const AttentionSpans& spans, const Tensor& k)
      : groups(int(s.groups)),
        segments(int(s.segments)),
        heads(int(s.heads)),
        kv_heads(int(s.kv_heads)),
        head_dim(int(s.head_dim)),
        rows(int(spans.begin.size())),
        keys(int(k.rows())),
        begin(spans.begin.data<std::int32_t>()),
        end(spans.end.data<std::int32_t>()),
        query_offsets(spans.query_offsets.data<std::int32_t>()),
        key_offsets(spans.key_offsets.data<std::int32_t>()) {}
  __device__ int head_group() const { return heads / kv_heads; }
  __device__ int q_stride() const { return heads * head_dim; }
  __device__ int kv_stride() const { return kv_heads * head_dim; }
};

/// Elements between two rows of a tile in shared memory: an odd number, so that lanes that read one
/// column of 32 rows meet 32 banks.
__host__ __device__ inline int tile_stride(int head_dim) { return head_dim | 1; }

/// Shared memory of a block: tiles of its own rows, tiles that pass by, and for each row of its own
/// 32 weights of some kinds.
template <class A>
struct SharedTiles {
  A* begin;
  int stride, own_tiles, passing_tiles;

  __device__ SharedTiles(A* memory, int head_dim, int own, int passing)
      : begin(memory), stride(tile_stride(head_dim)), own_tiles(own), passing_tiles(passing) {}
  static std::size_t bytes(int head_dim, int own, int passing, int weights) {
    const int rows = own * kBlockRows<A> + passing * int(kWarp);
    return std::size_t(rows * tile_stride(head_dim) + weights * kBlockRows<A> * int(kWarp)) *
           sizeof(A);
  }
  __device__ A* own(int i) const { return begin + i * kBlockRows<A> * stride; }
  __device__ A* passing(int i) const { return own(own_tiles) + i * int(kWarp) * stride; }
  /// Of this warp's rows.
  __device__ const A* own_rows(int i) const {
    return own(i) + warp_index() * kWarpRows<A> * stride;
  }
  __device__ A* weights(int i) const {
    return passing(passing_tiles) + (i * kBlockRows<A> + warp_index() * kWarpRows<A>)*int(kWarp);
  }
};

/// tile[i, :] = x[first + i, :], zeros from row `last` on; by all threads of the block.
template <class A, class T>
__device__ __forceinline__ void load_tile(A* tile, int tile_rows, const T* x, std::int64_t stride,
                                          int first, int last, int head_dim) {
  for (int i = warp_index(); i < tile_rows; i += kWarps)
    for (int e = lane_index(); e < head_dim; e += int(kWarp))
      tile[i * tile_stride(head_dim) + e] =
          first + i < last ? A(widen(x[(first + i) * stride + e])) : A(0);
}

/// sums[i] = <row i of the warp's own, this lane's passing row>
template <int kRows, class A>
__device__ __forceinline__ void dots(A (&sums)[kRows], const A* own, const A* passing,
                                     int head_dim) {
  const int stride = tile_stride(head_dim);
  const A* mine = passing + lane_index() * stride;
#pragma unroll
  for (int i = 0; i < kRows; ++i) sums[i] = 0;
  for (int e = 0; e < head_dim; ++e) {
    const A x = mine[e];
#pragma unroll
    for (int i = 0; i < kRows; ++i) sums[i] += own[i * stride + e] * x;
  }
}

/// sums[i, :] += the sum over the passing rows of weights[i, row] * passing[row, :]. A lane has the
/// columns lane, lane + 32, ...
template <int kRows, int kParts, class A>
__device__ __forceinline__ void add_rows(A (&sums)[kRows][kParts], const A* weights,
                                         const A* passing, int head_dim) {
  for (int row = 0; row < int(kWarp); ++row, passing += tile_stride(head_dim)) {
    A x[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int e = part * int(kWarp) + lane_index();
      x[part] = e < head_dim ? passing[e] : A(0);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const A weight = weights[i * int(kWarp) + row];
#pragma unroll
      for (int part = 0; part < kParts; ++part) sums[i][part] += weight * x[part];
    }
  }
}

template <int kParts, class T, class A>
__device__ __forceinline__ void store_row(T* to, const A (&sums)[kParts], A factor, int head_dim) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int e = part * int(kWarp) + lane_index();
    if (e < head_dim) to[e] = narrow<T>(sums[part] * factor);
  }
}

/// What the rows of a block see: lane l of every warp knows the span of row l.
struct BlockSpans {
  int begin, end;          // of this lane's row; [0, 0) where there is none
  int first_key, end_key;  // of all rows

  __device__ BlockSpans(const Spans& at, int first, int count) {
    const int row = first + lane_index();
    const bool there = lane_index() < count && row < at.rows;
    begin = there ? at.begin[row] : 0;
    end = there ? at.end[row] : 0;
    first_key = -warp_max(there ? -begin : -at.keys);
    end_key = warp_max(end);
  }
  /// Whether any row sees a key of [key, key + 32): the same for all threads of the block.
  __device__ bool see(int key) const {
    return __any_sync(kAllLanes, begin < key + int(kWarp) && end > key);
  }
  /// Whether row i of this warp's own sees `key`.
  template <int kRows>
  __device__ bool sees(int i, int key) const {
    const int lane = warp_index() * kRows + i;
    const int own_begin = __shfl_sync(kAllLanes, begin, lane),
              own_end = __shfl_sync(kAllLanes, end, lane);
    return key >= own_begin && key < own_end;
  }
};

}  // namespace moe
