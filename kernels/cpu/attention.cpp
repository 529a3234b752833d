// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/cpu_backend.h"

// Attention in tiles (Dao et al. 2022): scores exist only for one block of queries and one of keys.
// All attention is attention over spans of keys; of a causal sequence they follow from the places.
// T is the tensors' type, A the type of sums.

namespace moe {
namespace {

// A tile has up to kRows queries and kKeys keys: large, so that its products run near the full
// rate. On the diagonal, where half of a square is computed in vain, it has kDiagonalRows queries.
// The forward pass takes kChunk queries at a time. None of these depends on the number of threads.
constexpr std::int64_t kKeys = 256, kRows = 128, kDiagonalRows = 64, kChunk = 512;

// What a thread keeps between calls; its size grows with the length of one sequence.
template <class A>
struct Scratch {
  std::vector<A> q, k, v, out, dout, dq, dk, dv, scores, dscores, row_max, row_sum, lse, delta;
};

template <class A>
Scratch<A>& scratch() {
  thread_local Scratch<A> buffers;
  return buffers;
}

template <class A>
A* at_least(std::vector<A>& buffer, std::int64_t size) {
  if (std::int64_t(buffer.size()) < size) buffer.resize(std::size_t(size));
  return buffer.data();
}

// Rows of one head of a tensor [rows, heads * head_dim] as sums take them, one after the other: in
// place their long stride maps them onto a few sets of the cache. `once`: they are read only once,
// which no copy pays for.
template <class A, class T>
Matrix<const A> load(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t cols,
                     std::vector<A>& buffer, bool once = false) {
  const Matrix<A> copy = {at_least(buffer, rows * cols), cols};
  if constexpr (std::is_same_v<A, T>) {
    if (once) return {from, stride};
    for (std::int64_t i = 0; i < rows; ++i)
      std::copy_n(from + i * stride, cols, copy.data + i * cols);
  } else {
    widen({from, stride}, rows, cols, copy);
  }
  return {copy.data, cols};
}

template <class A, class T>
void store(Matrix<const A> sums, std::int64_t rows, std::int64_t cols, T* to, std::int64_t stride) {
  if constexpr (std::is_same_v<A, T>) {
    for (std::int64_t i = 0; i < rows; ++i)
      std::copy_n(sums.data + i * sums.stride, cols, to + i * stride);
  } else {
    narrow(sums, rows, cols, {to, stride});
  }
}

template <class A>
Matrix<const A> as_const(Matrix<A> m) {
  return {m.data, m.stride};
}

template <class A>
Matrix<A> rows_from(Matrix<A> m, std::int64_t row) {
  return {m.data + row * m.stride, m.stride};
}

// SpanAttentionShape and AttentionSpans as the tiles read them, and what follows from them.
struct Layout : SpanAttentionShape {
  const std::int32_t *begins, *ends, *query_offsets, *key_offsets;
  bool lse_by_head;  // lse of a run is [heads, rows], else [rows, heads]

  std::int64_t runs() const { return groups * segments; }
  std::int64_t head_group() const { return heads / kv_heads; }
  std::int64_t q_stride() const { return heads * head_dim; }
  std::int64_t kv_stride() const { return kv_heads * head_dim; }
  double scale() const { return 1 / std::sqrt(double(head_dim)); }
  std::int64_t q_index(std::int64_t row, std::int64_t h) const {
    return row * q_stride() + h * head_dim;
  }
  std::int64_t kv_index(std::int64_t key, std::int64_t kv_head) const {
    return key * kv_stride() + kv_head * head_dim;
  }
  std::int64_t lse_index(std::int64_t run, std::int64_t row, std::int64_t h) const {
    const std::int64_t first = query_offsets[run], i = row - first;
    const std::int64_t rows = query_offsets[run + 1] - first;
    return first * heads + (lse_by_head ? h * rows + i : i * heads + h);
  }
  // The first key that any of `rows` rows from `row` on sees.
  std::int64_t first_key(std::int64_t row, std::int64_t rows) const {
    return *std::min_element(begins + row, begins + row + rows);
  }
};

// The scores of the rows [first, last) of a run with the keys [key, end_key) in tiles that are as
// narrow as what their rows see: f(row, tile).
template <class F>
void for_tiles(const Layout& at, std::int64_t first, std::int64_t last, std::int64_t key,
               std::int64_t end_key, F&& f) {
  for (std::int64_t row = std::upper_bound(at.ends + first, at.ends + last, key) - at.ends;
       row < last;) {
    const bool all_visible = at.ends[row] >= end_key;
    const std::int64_t rows = std::min(all_visible ? kRows : kDiagonalRows, last - row);
    const std::int64_t from = std::max(key, at.first_key(row, rows));
    const std::int64_t cols = std::min<std::int64_t>(end_key, at.ends[row + rows - 1]) - from;
    if (cols > 0) f(row, Tile{rows, cols, at.begins + row, at.ends + row, from});
    row += rows;
  }
}

// Some rows of a run, which one task computes for one head.
struct Chunk {
  std::int64_t run, first, count;
};

template <class T, class A>
void forward_chunk(const Layout& at, const Chunk& chunk, std::int64_t h, T* out, A* lse, const T* q,
                   const T* k, const T* v) {
  Scratch<A>& s = scratch<A>();
  const auto [run, first, count] = chunk;
  const std::int64_t d = at.head_dim, kv_head = h / at.head_group();
  const std::int64_t keys = at.ends[first + count - 1];
  const auto queries = load(q + at.q_index(first, h), at.q_stride(), count, d, s.q);
  const Matrix<A> sums = {at_least(s.out, count * d), d};
  const Matrix<A> scores = {at_least(s.scores, kRows * kKeys), kKeys};
  A* row_max = at_least(s.row_max, count);
  A* row_sum = at_least(s.row_sum, count);
  std::fill_n(sums.data, count * d, A(0));
  std::fill_n(row_max, count, -std::numeric_limits<A>::infinity());
  std::fill_n(row_sum, count, A(0));
  for (std::int64_t key = at.first_key(first, count); key < keys; key += kKeys) {
    const std::int64_t cols = std::min(kKeys, keys - key), kv = at.kv_index(key, kv_head);
    const bool once = count <= kDiagonalRows;
    const auto k_rows = load(k + kv, at.kv_stride(), cols, d, s.k, once);
    const auto v_rows = load(v + kv, at.kv_stride(), cols, d, s.v, once);
    for_tiles(at, first, first + count, key, key + cols, [&](std::int64_t row, const Tile& tile) {
      const std::int64_t i = row - first;
      const Matrix<A> out_tile = rows_from(sums, i);
      matrix_product({tile.rows, tile.cols, d, false, true, 0}, rows_from(queries, i),
                     rows_from(k_rows, tile.key - key), scores);
      softmax_tile<A>(scores, tile, A(at.scale()), row_max + i, row_sum + i, out_tile, d);
      matrix_product({tile.rows, d, tile.cols, false, false, 1}, as_const(scores),
                     rows_from(v_rows, tile.key - key), out_tile);
    });
  }
  divide_rows<A>(sums, count, d, row_sum);
  store(as_const(sums), count, d, out + at.q_index(first, h), at.q_stride());
  for (std::int64_t i = 0; i < count; ++i)
    lse[at.lse_index(run, first + i, h)] = row_max[i] + std::log(row_sum[i]);
}

// All gradients of one key/value head of one segment and of the query heads that read it.
template <class T, class A>
void backward_head(const Layout& at, std::int64_t segment, std::int64_t kv_head, T* dq, T* dk,
                   T* dv, const T* dout, const T* q, const T* k, const T* v, const T* out,
                   const A* lse) {
  Scratch<A>& s = scratch<A>();
  const std::int64_t d = at.head_dim, first_key = at.key_offsets[segment];
  const std::int64_t keys = at.key_offsets[segment + 1] - first_key;
  const Matrix<A> scores = {at_least(s.scores, kRows * kKeys), kKeys};
  const Matrix<A> dscores = {at_least(s.dscores, kRows * kKeys), kKeys};
  const Matrix<A> dk_sums = {at_least(s.dk, keys * d), d}, dv_sums = {at_least(s.dv, keys * d), d};
  std::fill_n(dk_sums.data, keys * d, A(0));
  std::fill_n(dv_sums.data, keys * d, A(0));
  const std::int64_t kv_begin = at.kv_index(first_key, kv_head);
  for (std::int64_t run = segment; run < at.runs(); run += at.segments) {
    const std::int64_t first = at.query_offsets[run], rows = at.query_offsets[run + 1] - first;
    A *delta = at_least(s.delta, rows), *run_lse = at_least(s.lse, rows);
    const Matrix<A> dq_sums = {at_least(s.dq, rows * d), d};
    for (std::int64_t h = kv_head * at.head_group(); h < (kv_head + 1) * at.head_group(); ++h) {
      const std::int64_t q_begin = at.q_index(first, h);
      const auto queries = load(q + q_begin, at.q_stride(), rows, d, s.q);
      const auto dout_rows = load(dout + q_begin, at.q_stride(), rows, d, s.dout);
      const auto out_rows = load(out + q_begin, at.q_stride(), rows, d, s.out, true);
      row_dots<A>(delta, dout_rows, out_rows, rows, d);
      for (std::int64_t i = 0; i < rows; ++i) run_lse[i] = lse[at.lse_index(run, first + i, h)];
      std::fill_n(dq_sums.data, rows * d, A(0));
      for (std::int64_t key = 0; key < keys; key += kKeys) {
        const std::int64_t cols = std::min(kKeys, keys - key), kv = kv_begin + key * at.kv_stride();
        const auto k_rows = load(k + kv, at.kv_stride(), cols, d, s.k);
        const auto v_rows = load(v + kv, at.kv_stride(), cols, d, s.v);
        const auto add_tile = [&](std::int64_t row, const Tile& tile) {
          const std::int64_t n = tile.cols, i = row - first, j = tile.key - first_key;
          const auto q_tile = rows_from(queries, i), dout_tile = rows_from(dout_rows, i);
          const auto k_tile = rows_from(k_rows, j - key);
          matrix_product({tile.rows, n, d, false, true, 0}, q_tile, k_tile, scores);
          matrix_product({tile.rows, n, d, false, true, 0}, dout_tile, rows_from(v_rows, j - key),
                         dscores);
          softmax_backward_tile<A>(scores, dscores, tile, A(at.scale()), run_lse + i, delta + i);
          matrix_product({n, d, tile.rows, true, false, 1}, as_const(scores), dout_tile,
                         rows_from(dv_sums, j));
          matrix_product({n, d, tile.rows, true, false, 1}, as_const(dscores), q_tile,
                         rows_from(dk_sums, j));
          matrix_product({tile.rows, d, n, false, false, 1}, as_const(dscores), k_tile,
                         rows_from(dq_sums, i));
        };
        for_tiles(at, first, first + rows, first_key + key, first_key + key + cols, add_tile);
      }
      store(as_const(dq_sums), rows, d, dq + q_begin, at.q_stride());
    }
  }
  store(as_const(dk_sums), keys, d, dk + kv_begin, at.kv_stride());
  store(as_const(dv_sums), keys, d, dv + kv_begin, at.kv_stride());
}

void forward(const Layout& at, Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
             const Tensor& v) {
  std::vector<Chunk> chunks;
  for (std::int64_t run = 0; run < at.runs(); ++run) {
    const std::int64_t end = at.query_offsets[run + 1];
    for (std::int64_t first = at.query_offsets[run]; first < end; first += kChunk)
      chunks.push_back({run, first, std::min(kChunk, end - first)});
  }
  const auto scores = [&](const Chunk& c) {
    return c.count * (at.ends[c.first + c.count - 1] - at.begins[c.first]);
  };
  std::stable_sort(chunks.begin(), chunks.end(), [&](const Chunk& a, const Chunk& b) {
    return scores(a) > scores(b);  // the longest first
  });
  for_float(q.dtype(), [&]<class T>(T) {
    run_tasks(std::int64_t(chunks.size()) * at.heads, [&](std::int64_t task) {
      forward_chunk<T, Acc<T>>(at, chunks[std::size_t(task / at.heads)], task % at.heads,
                               out.data<T>(), lse.data<Acc<T>>(), q.data<T>(), k.data<T>(),
                               v.data<T>());
    });
  });
}

void backward(const Layout& at, Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
              const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
              const Tensor& lse) {
  for_float(q.dtype(), [&]<class T>(T) {
    run_tasks(at.segments * at.kv_heads, [&](std::int64_t task) {
      backward_head<T, Acc<T>>(at, task / at.kv_heads, task % at.kv_heads, dq.data<T>(),
                               dk.data<T>(), dv.data<T>(), dout.data<T>(), q.data<T>(), k.data<T>(),
                               v.data<T>(), out.data<T>(), lse.data<Acc<T>>());
    });
  });
}

Layout layout_of(const SpanAttentionShape& shape, const AttentionSpans& spans) {
  return {shape,
          spans.begin.data<std::int32_t>(),
          spans.end.data<std::int32_t>(),
          spans.query_offsets.data<std::int32_t>(),
          spans.key_offsets.data<std::int32_t>(),
          false};
}

// Causal sequences as one group of spans, a sequence a segment.
struct CausalSpans {
  CausalSpans(const AttentionShape& s, const Tensor& starts)
      : begins(std::size_t(s.batch * s.q_length)), ends(begins.size()) {
    const std::int32_t* start = starts.defined() ? starts.data<std::int32_t>() : nullptr;
    for (std::int64_t row = 0; row < s.batch * s.q_length; ++row) {
      const std::int64_t b = row / s.q_length, seen = row % s.q_length + s.kv_length - s.q_length;
      begins[std::size_t(row)] =
          std::int32_t(b * s.kv_length + (start == nullptr ? 0 : start[row]));
      ends[std::size_t(row)] = std::int32_t(b * s.kv_length + seen + 1);
    }
    for (std::int64_t b = 0; b <= s.batch; ++b) {
      query_offsets.push_back(std::int32_t(b * s.q_length));
      key_offsets.push_back(std::int32_t(b * s.kv_length));
    }
  }
  std::vector<std::int32_t> begins, ends, query_offsets = {}, key_offsets = {};

  Layout layout(const AttentionShape& s) const {
    return {{1, s.batch, s.heads, s.kv_heads, s.head_dim},
            begins.data(),
            ends.data(),
            query_offsets.data(),
            key_offsets.data(),
            true};
  }
};

}  // namespace

void CpuBackend::attention_forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                   const Tensor& v, const Tensor& starts,
                                   const AttentionShape& shape) {
  const CausalSpans spans(shape, starts);
  forward(spans.layout(shape), out, lse, q, k, v);
}

void CpuBackend::attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                                    const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor& out, const Tensor& lse, const Tensor& starts,
                                    const AttentionShape& shape) {
  const CausalSpans spans(shape, starts);
  backward(spans.layout(shape), dq, dk, dv, dout, q, k, v, out, lse);
}

void CpuBackend::span_attention_forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                        const Tensor& v, const AttentionSpans& spans,
                                        const SpanAttentionShape& shape) {
  forward(layout_of(shape, spans), out, lse, q, k, v);
}

void CpuBackend::span_attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                                         const Tensor& q, const Tensor& k, const Tensor& v,
                                         const Tensor& out, const Tensor& lse,
                                         const AttentionSpans& spans,
                                         const SpanAttentionShape& shape) {
  backward(layout_of(shape, spans), dq, dk, dv, dout, q, k, v, out, lse);
}

}  // namespace moe
