// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/vectorize.h"

// Attention in tiles (Dao et al. 2022): scores exist only for one block of queries and one of keys.
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
  std::vector<A> q, k, v, out, dout, dq, dk, dv, scores, dscores, row_max, row_sum, delta;
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

// Score rows are read up to a whole vector, which saves the loop over the rest; the rows' stride is
// a multiple of that.
constexpr std::int64_t kLanes = 16;
MOE_INLINE std::int64_t whole_lanes(std::int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// A tile of scores: what its rows see of its columns.
struct Tile {
  std::int64_t rows, cols;
  std::int64_t diagonal;       // columns up to row 0's own key, that one too
  const std::int32_t* starts;  // of the rows' documents, null: all 0; from `key` on
  std::int64_t key;            // of column 0

  /// Row r sees the columns [begin, end), which lie in [first, padded), whole lanes.
  struct Span {
    std::int64_t begin, end, first, padded;
  };
  MOE_INLINE Span seen_by(std::int64_t r) const {
    const std::int64_t end = std::clamp<std::int64_t>(diagonal + r, 0, cols);
    const std::int64_t begin =
        starts == nullptr ? 0 : std::clamp<std::int64_t>(starts[r] - key, 0, end);
    return {begin, end, begin / kLanes * kLanes, whole_lanes(end)};
  }
};

// The columns of a row that share lanes with those it sees.
template <class A>
MOE_INLINE void fill_unseen_lanes(A* row, const Tile::Span& seen, A value) {
  for (std::int64_t j = seen.first; j < seen.begin; ++j) row[j] = value;
  for (std::int64_t j = seen.end; j < seen.padded; ++j) row[j] = value;
}

template <class A>
MOE_INLINE void clear_unseen(A* row, const Tile::Span& seen, std::int64_t cols) {
  std::fill(row, row + seen.begin, A(0));
  std::fill(row + seen.end, row + cols, A(0));
}

// One step of the online softmax over a tile of scores: they become exp(scale * score - row_max),
// row_max, row_sum and the weighted values summed so far (out, [rows, head_dim]) move to the new
// maximum. They begin at -infinity, 0 and 0.
template <class A>
MOE_VECTORIZE static void softmax_tile(Matrix<A> scores, const Tile& tile, A scale, A* row_max,
                                       A* row_sum, Matrix<A> out, std::int64_t head_dim) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    A* __restrict s = scores.data + r * scores.stride;
    const Tile::Span seen = tile.seen_by(r);
    if (seen.begin == seen.end) {
      std::fill_n(s, tile.cols, A(0));
      continue;
    }
    // Not seen: e to the power of -infinity adds 0 to a sum that is 1 at least (in float what it
    // adds, e^-87, is rounded away), and is made 0 afterwards.
    fill_unseen_lanes(s, seen, -std::numeric_limits<A>::infinity());
    A largest = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : largest)
    for (std::int64_t j = seen.first; j < seen.padded; ++j)
      largest = s[j] > largest ? s[j] : largest;
    const A shift = std::max(row_max[r], scale * largest);
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = seen.first; j < seen.padded; ++j) {
      s[j] = exp_of_nonpositive(scale * s[j] - shift);
      sum += s[j];
    }
    clear_unseen(s, seen, tile.cols);
    const A correction = exp_of_nonpositive(row_max[r] - shift);
    row_sum[r] = row_sum[r] * correction + sum;
    if (correction != A(1)) {
      A* __restrict o = out.data + r * out.stride;
      for (std::int64_t d = 0; d < head_dim; ++d) o[d] *= correction;
    }
    row_max[r] = shift;
  }
}

// Probabilities p = exp(scale * score - lse), written over the scores, and the gradients of the
// unscaled scores, scale * p * (dp - delta), over dp.
template <class A>
MOE_VECTORIZE static void softmax_backward_tile(Matrix<A> scores, Matrix<A> dp, const Tile& tile,
                                                A scale, const A* lse, const A* delta) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    A* __restrict s = scores.data + r * scores.stride;
    A* __restrict ds = dp.data + r * dp.stride;
    const Tile::Span seen = tile.seen_by(r);
    const A shift = lse[r], mean = delta[r];
#pragma GCC ivdep
    for (std::int64_t j = seen.first; j < seen.padded; ++j) {
      const A p = exp_of_nonpositive(scale * s[j] - shift);
      ds[j] = scale * p * (ds[j] - mean);
      s[j] = p;
    }
    clear_unseen(s, seen, tile.cols);
    clear_unseen(ds, seen, tile.cols);
  }
}

template <class A>
MOE_VECTORIZE static void divide_rows(Matrix<A> out, std::int64_t rows, std::int64_t cols,
                                      const A* row_sum) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const A factor = A(1) / row_sum[r];
    for (std::int64_t d = 0; d < cols; ++d) out.data[r * out.stride + d] *= factor;
  }
}

// sums[r] = <x[r, :], y[r, :]>
template <class A>
MOE_VECTORIZE static void row_dots(A* sums, Matrix<const A> x, Matrix<const A> y, std::int64_t rows,
                                   std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const A *a = x.data + r * x.stride, *b = y.data + r * y.stride;
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t d = 0; d < cols; ++d) sum += a[d] * b[d];
    sums[r] = sum;
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

// AttentionShape and what follows from it.
struct Layout : AttentionShape {
  Layout(const AttentionShape& shape, const Tensor& documents)
      : AttentionShape(shape),
        starts(documents.defined() ? documents.data<std::int32_t>() : nullptr) {}
  const std::int32_t* starts;  // of the queries' documents, null: all 0
  std::int64_t group() const { return heads / kv_heads; }
  std::int64_t q_stride() const { return heads * head_dim; }
  std::int64_t kv_stride() const { return kv_heads * head_dim; }
  std::int64_t offset() const { return kv_length - q_length; }  // position of query 0
  double scale() const { return 1 / std::sqrt(double(head_dim)); }
  std::int64_t q_index(std::int64_t b, std::int64_t h, std::int64_t i) const {
    return (b * q_length + i) * q_stride() + h * head_dim;
  }
  std::int64_t kv_index(std::int64_t b, std::int64_t kv_head, std::int64_t j) const {
    return (b * kv_length + j) * kv_stride() + kv_head * head_dim;
  }
  std::int64_t row(std::int64_t b, std::int64_t h, std::int64_t i) const {
    return (b * heads + h) * q_length + i;
  }
  const std::int32_t* starts_of(std::int64_t b, std::int64_t i) const {
    return starts == nullptr ? nullptr : starts + b * q_length + i;
  }
  /// The first key that any of `rows` queries from query i on sees.
  std::int64_t first_key(std::int64_t b, std::int64_t i, std::int64_t rows) const {
    const std::int32_t* s = starts_of(b, i);
    return s == nullptr ? 0 : *std::min_element(s, s + rows);
  }
};

// The scores of queries [first, end) of sequence b with the keys [key, end_key) in tiles that are
// as narrow as what their rows see: f(i, tile) where row 0 is query i.
template <class F>
void for_tiles(const Layout& at, std::int64_t b, std::int64_t first, std::int64_t end,
               std::int64_t key, std::int64_t end_key, F&& f) {
  for (std::int64_t i = std::max(first, key - at.offset()); i < end;) {
    const bool all_visible = i + at.offset() >= end_key - 1;
    const std::int64_t rows = std::min(all_visible ? kRows : kDiagonalRows, end - i);
    const std::int64_t from = std::max(key, at.first_key(b, i, rows));
    const std::int64_t cols = std::min(end_key, i + rows + at.offset()) - from;
    if (cols > 0) f(i, Tile{rows, cols, i + at.offset() + 1 - from, at.starts_of(b, i), from});
    i += rows;
  }
}

// A chunk of queries of one head against all keys it sees.
template <class T, class A>
void forward_chunk(const Layout& at, std::int64_t b, std::int64_t h, std::int64_t first, T* out,
                   A* lse, const T* q, const T* k, const T* v) {
  Scratch<A>& s = scratch<A>();
  const std::int64_t d = at.head_dim, kv_head = h / at.group();
  const std::int64_t count = std::min(kChunk, at.q_length - first);
  const std::int64_t keys = first + count + at.offset();
  const auto queries = load(q + at.q_index(b, h, first), at.q_stride(), count, d, s.q);
  const Matrix<A> sums = {at_least(s.out, count * d), d};
  const Matrix<A> scores = {at_least(s.scores, kRows * kKeys), kKeys};
  A* row_max = at_least(s.row_max, count);
  A* row_sum = at_least(s.row_sum, count);
  std::fill_n(sums.data, count * d, A(0));
  std::fill_n(row_max, count, -std::numeric_limits<A>::infinity());
  std::fill_n(row_sum, count, A(0));
  for (std::int64_t key = at.first_key(b, first, count); key < keys; key += kKeys) {
    const std::int64_t cols = std::min(kKeys, keys - key), kv = at.kv_index(b, kv_head, key);
    const bool once = count <= kDiagonalRows;
    const auto k_rows = load(k + kv, at.kv_stride(), cols, d, s.k, once);
    const auto v_rows = load(v + kv, at.kv_stride(), cols, d, s.v, once);
    for_tiles(at, b, first, first + count, key, key + cols, [&](std::int64_t i, const Tile& tile) {
      const std::int64_t row = i - first;
      const Matrix<A> out_tile = {sums.data + row * d, d};
      matrix_product({tile.rows, tile.cols, d, false, true, 0}, {queries.data + row * d, d},
                     rows_from(k_rows, tile.key - key), scores);
      softmax_tile<A>(scores, tile, A(at.scale()), row_max + row, row_sum + row, out_tile, d);
      matrix_product({tile.rows, d, tile.cols, false, false, 1}, as_const(scores),
                     rows_from(v_rows, tile.key - key), out_tile);
    });
  }
  divide_rows<A>(sums, count, d, row_sum);
  store(as_const(sums), count, d, out + at.q_index(b, h, first), at.q_stride());
  for (std::int64_t r = 0; r < count; ++r)
    lse[at.row(b, h, first + r)] = row_max[r] + std::log(row_sum[r]);
}

// All gradients of one key/value head of one sequence and of the query heads that read it.
template <class T, class A>
void backward_head(const Layout& at, std::int64_t b, std::int64_t kv_head, T* dq, T* dk, T* dv,
                   const T* dout, const T* q, const T* k, const T* v, const T* out, const A* lse) {
  Scratch<A>& s = scratch<A>();
  const std::int64_t d = at.head_dim, length = at.q_length, keys = at.kv_length;
  const Matrix<A> scores = {at_least(s.scores, kRows * kKeys), kKeys};
  const Matrix<A> dscores = {at_least(s.dscores, kRows * kKeys), kKeys};
  const Matrix<A> dk_sums = {at_least(s.dk, keys * d), d}, dv_sums = {at_least(s.dv, keys * d), d};
  std::fill_n(dk_sums.data, keys * d, A(0));
  std::fill_n(dv_sums.data, keys * d, A(0));
  A* delta = at_least(s.delta, length);
  const Matrix<A> dq_sums = {at_least(s.dq, length * d), d};
  for (std::int64_t h = kv_head * at.group(); h < (kv_head + 1) * at.group(); ++h) {
    const std::int64_t q_begin = at.q_index(b, h, 0);
    const auto queries = load(q + q_begin, at.q_stride(), length, d, s.q);
    const auto dout_rows = load(dout + q_begin, at.q_stride(), length, d, s.dout);
    const auto out_rows = load(out + q_begin, at.q_stride(), length, d, s.out, true);
    row_dots<A>(delta, dout_rows, out_rows, length, d);
    const A* head_lse = lse + at.row(b, h, 0);
    std::fill_n(dq_sums.data, length * d, A(0));
    for (std::int64_t key = 0; key < keys; key += kKeys) {
      const std::int64_t cols = std::min(kKeys, keys - key), kv = at.kv_index(b, kv_head, key);
      const auto k_rows = load(k + kv, at.kv_stride(), cols, d, s.k);
      const auto v_rows = load(v + kv, at.kv_stride(), cols, d, s.v);
      for_tiles(at, b, 0, length, key, key + cols, [&](std::int64_t i, const Tile& tile) {
        const std::int64_t rows = tile.rows, n = tile.cols;
        const auto q_tile = rows_from(queries, i), dout_tile = rows_from(dout_rows, i);
        const auto k_tile = rows_from(k_rows, tile.key - key);
        matrix_product({rows, n, d, false, true, 0}, q_tile, k_tile, scores);
        matrix_product({rows, n, d, false, true, 0}, dout_tile, rows_from(v_rows, tile.key - key),
                       dscores);
        softmax_backward_tile<A>(scores, dscores, tile, A(at.scale()), head_lse + i, delta + i);
        matrix_product({n, d, rows, true, false, 1}, as_const(scores), dout_tile,
                       rows_from(dv_sums, tile.key));
        matrix_product({n, d, rows, true, false, 1}, as_const(dscores), q_tile,
                       rows_from(dk_sums, tile.key));
        matrix_product({rows, d, n, false, false, 1}, as_const(dscores), k_tile,
                       rows_from(dq_sums, i));
      });
    }
    store(as_const(dq_sums), length, d, dq + q_begin, at.q_stride());
  }
  const std::int64_t kv_begin = at.kv_index(b, kv_head, 0);
  store(as_const(dk_sums), keys, d, dk + kv_begin, at.kv_stride());
  store(as_const(dv_sums), keys, d, dv + kv_begin, at.kv_stride());
}

}  // namespace

void CpuBackend::attention_forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                   const Tensor& v, const Tensor& starts,
                                   const AttentionShape& shape) {
  const Layout at(shape, starts);
  const std::int64_t chunks = (at.q_length + kChunk - 1) / kChunk;
  for_float(q.dtype(), [&]<class T>(T) {
    run_tasks(at.batch * at.heads * chunks, [&](std::int64_t task) {
      const std::int64_t head = task / chunks;
      const std::int64_t chunk = chunks - 1 - task % chunks;  // the longest first
      forward_chunk<T, Acc<T>>(at, head / at.heads, head % at.heads, chunk * kChunk, out.data<T>(),
                               lse.data<Acc<T>>(), q.data<T>(), k.data<T>(), v.data<T>());
    });
  });
}

void CpuBackend::attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                                    const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor& out, const Tensor& lse, const Tensor& starts,
                                    const AttentionShape& shape) {
  const Layout at(shape, starts);
  for_float(q.dtype(), [&]<class T>(T) {
    run_tasks(at.batch * at.kv_heads, [&](std::int64_t task) {
      backward_head<T, Acc<T>>(at, task / at.kv_heads, task % at.kv_heads, dq.data<T>(),
                               dk.data<T>(), dv.data<T>(), dout.data<T>(), q.data<T>(), k.data<T>(),
                               v.data<T>(), out.data<T>(), lse.data<Acc<T>>());
    });
  });
}

}  // namespace moe
