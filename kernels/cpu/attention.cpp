// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/vectorize.h"

// Attention in tiles (Dao et al. 2022): scores exist only for one block of queries and one of keys.
// T is the tensors' type, A the type of sums; tiles of bf16 are widened, others read in place.

namespace moe {
namespace {

// Long along one side, so that the tiles' products run near the full rate, and short along the
// other, because half of the square on the diagonal is computed in vain.
constexpr std::int64_t kShortBlock = 64, kLongBlock = 256;

// What a thread keeps between calls; sizes depend on block sizes, and for the backward pass of
// bf16 on the length of one sequence.
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

// Rows of one head of a tensor [rows, heads * head_dim], as sums take them.
template <class A, class T>
Matrix<const A> load(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t cols,
                     std::vector<A>& buffer) {
  if constexpr (std::is_same_v<A, T>) {
    return {from, stride};
  } else {
    const Matrix<A> wide = {at_least(buffer, rows * cols), cols};
    widen({from, stride}, rows, cols, wide);
    return {wide.data, wide.stride};
  }
}

// Where a block of results is summed up: in place, or in a buffer that store() rounds from.
template <class A, class T>
Matrix<A> accumulate(T* to, std::int64_t stride, std::int64_t rows, std::int64_t cols,
                     std::vector<A>& buffer) {
  if constexpr (std::is_same_v<A, T>)
    return {to, stride};
  else
    return {at_least(buffer, rows * cols), cols};
}

template <class A, class T>
void store(Matrix<A> sums, std::int64_t rows, std::int64_t cols, T* to, std::int64_t stride) {
  if constexpr (!std::is_same_v<A, T>) narrow({sums.data, sums.stride}, rows, cols, {to, stride});
}

// One step of the online softmax over a tile of scores, of which row r sees the first
// first_visible + r columns: scores become exp(scale * score - row_max), row_max, row_sum and the
// weighted values summed so far (out, [rows, head_dim]) move to the new maximum.
template <class A>
MOE_VECTORIZE static void softmax_tile(Matrix<A> scores, std::int64_t rows, std::int64_t cols,
                                       std::int64_t first_visible, A scale, A* row_max, A* row_sum,
                                       Matrix<A> out, std::int64_t head_dim, bool first_tile) {
  for (std::int64_t r = 0; r < rows; ++r) {
    A* __restrict s = scores.data + r * scores.stride;
    const std::int64_t visible = std::clamp<std::int64_t>(first_visible + r, 0, cols);
    A largest = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : largest)
    for (std::int64_t j = 0; j < visible; ++j) largest = s[j] > largest ? s[j] : largest;
    const A shift = first_tile ? scale * largest : std::max(row_max[r], scale * largest);
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < visible; ++j) {
      const A p = exp_of(scale * s[j] - shift);
      s[j] = p;
      sum += p;
    }
    for (std::int64_t j = visible; j < cols; ++j) s[j] = 0;
    if (first_tile) {
      row_sum[r] = sum;
    } else {
      const A correction = exp_of(row_max[r] - shift);
      row_sum[r] = row_sum[r] * correction + sum;
      if (correction != A(1)) {
        A* __restrict o = out.data + r * out.stride;
        for (std::int64_t d = 0; d < head_dim; ++d) o[d] *= correction;
      }
    }
    row_max[r] = shift;
  }
}

// Probabilities p = exp(scale * score - lse), written over the scores, and the gradients of the
// unscaled scores, scale * p * (dp - delta), over dp. Row r sees the first first_visible + r
// columns.
template <class A>
MOE_VECTORIZE static void softmax_backward_tile(Matrix<A> scores, Matrix<A> dp, std::int64_t rows,
                                                std::int64_t cols, std::int64_t first_visible,
                                                A scale, const A* lse, const A* delta) {
  for (std::int64_t r = 0; r < rows; ++r) {
    A* __restrict s = scores.data + r * scores.stride;
    A* __restrict ds = dp.data + r * dp.stride;
    const std::int64_t visible = std::clamp<std::int64_t>(first_visible + r, 0, cols);
    const A shift = lse[r], mean = delta[r];
#pragma GCC ivdep
    for (std::int64_t j = 0; j < visible; ++j) {
      const A p = exp_of(scale * s[j] - shift);
      ds[j] = scale * p * (ds[j] - mean);
      s[j] = p;
    }
    for (std::int64_t j = visible; j < cols; ++j) s[j] = ds[j] = 0;
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

// AttentionShape and what follows from it.
struct Layout : AttentionShape {
  explicit Layout(const AttentionShape& shape) : AttentionShape(shape) {}
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
};

// One block of queries of one head against all keys it sees.
template <class T, class A>
void forward_block(const Layout& at, std::int64_t b, std::int64_t h, std::int64_t first, T* out,
                   A* lse, const T* q, const T* k, const T* v) {
  Scratch<A>& s = scratch<A>();
  const std::int64_t d = at.head_dim, kv_head = h / at.group();
  const std::int64_t rows = std::min(kShortBlock, at.q_length - first);
  const std::int64_t keys = first + rows + at.offset();
  const auto q_tile = load(q + at.q_index(b, h, first), at.q_stride(), rows, d, s.q);
  T* out_rows = out + at.q_index(b, h, first);
  const Matrix<A> sums = accumulate(out_rows, at.q_stride(), rows, d, s.out);
  const Matrix<A> scores = {at_least(s.scores, kShortBlock * kLongBlock), kLongBlock};
  A* row_max = at_least(s.row_max, kShortBlock);
  A* row_sum = at_least(s.row_sum, kShortBlock);
  for (std::int64_t key = 0; key < keys; key += kLongBlock) {
    const std::int64_t cols = std::min(kLongBlock, keys - key);
    const auto k_tile = load(k + at.kv_index(b, kv_head, key), at.kv_stride(), cols, d, s.k);
    const auto v_tile = load(v + at.kv_index(b, kv_head, key), at.kv_stride(), cols, d, s.v);
    matrix_product({rows, cols, d, false, true, 0}, q_tile, k_tile, scores);
    softmax_tile<A>(scores, rows, cols, first + at.offset() + 1 - key, A(at.scale()), row_max,
                    row_sum, sums, d, key == 0);
    matrix_product({rows, d, cols, false, false, key == 0 ? 0 : 1}, as_const(scores), v_tile, sums);
  }
  divide_rows<A>(sums, rows, d, row_sum);
  store(sums, rows, d, out_rows, at.q_stride());
  for (std::int64_t r = 0; r < rows; ++r)
    lse[at.row(b, h, first + r)] = row_max[r] + std::log(row_sum[r]);
}

// All gradients of one key/value head of one sequence and of the query heads that read it.
template <class T, class A>
void backward_head(const Layout& at, std::int64_t b, std::int64_t kv_head, T* dq, T* dk, T* dv,
                   const T* dout, const T* q, const T* k, const T* v, const T* out, const A* lse) {
  Scratch<A>& s = scratch<A>();
  const std::int64_t d = at.head_dim, group = at.group(), length = at.q_length;
  const std::int64_t first_head = kv_head * group;
  const std::int64_t q_begin = at.q_index(b, first_head, 0), q_cols = group * d;
  const auto q_all = load(q + q_begin, at.q_stride(), length, q_cols, s.q);
  const auto dout_all = load(dout + q_begin, at.q_stride(), length, q_cols, s.dout);
  const auto out_all = load(out + q_begin, at.q_stride(), length, q_cols, s.out);
  const auto dq_all = accumulate(dq + q_begin, at.q_stride(), length, q_cols, s.dq);
  A* delta = at_least(s.delta, group * length);
  for (std::int64_t g = 0; g < group; ++g)
    row_dots<A>(delta + g * length, {dout_all.data + g * d, dout_all.stride},
                {out_all.data + g * d, out_all.stride}, length, d);
  const Matrix<A> scores = {at_least(s.scores, kShortBlock * kLongBlock), kShortBlock};
  const Matrix<A> dscores = {at_least(s.dscores, kShortBlock * kLongBlock), kShortBlock};
  for (std::int64_t key = 0; key < at.kv_length; key += kShortBlock) {
    const std::int64_t cols = std::min(kShortBlock, at.kv_length - key);
    const std::int64_t kv_begin = at.kv_index(b, kv_head, key);
    const auto k_tile = load(k + kv_begin, at.kv_stride(), cols, d, s.k);
    const auto v_tile = load(v + kv_begin, at.kv_stride(), cols, d, s.v);
    const Matrix<A> dk_tile = accumulate(dk + kv_begin, at.kv_stride(), cols, d, s.dk);
    const Matrix<A> dv_tile = accumulate(dv + kv_begin, at.kv_stride(), cols, d, s.dv);
    int kv_beta = 0;
    for (std::int64_t g = 0; g < group; ++g) {
      const A* head_lse = lse + at.row(b, first_head + g, 0);
      const auto first_query = std::max<std::int64_t>(0, key - at.offset());
      for (std::int64_t i = first_query; i < length; i += kLongBlock) {
        const std::int64_t rows = std::min(kLongBlock, length - i);
        const auto rows_of = [&](auto m) {
          return decltype(m){m.data + i * m.stride + g * d, m.stride};
        };
        const auto q_tile = rows_of(q_all), dout_tile = rows_of(dout_all);
        matrix_product({rows, cols, d, false, true, 0}, q_tile, k_tile, scores);
        matrix_product({rows, cols, d, false, true, 0}, dout_tile, v_tile, dscores);
        softmax_backward_tile<A>(scores, dscores, rows, cols, i + at.offset() + 1 - key,
                                 A(at.scale()), head_lse + i, delta + g * length + i);
        matrix_product({cols, d, rows, true, false, kv_beta}, as_const(scores), dout_tile, dv_tile);
        matrix_product({cols, d, rows, true, false, kv_beta}, as_const(dscores), q_tile, dk_tile);
        matrix_product({rows, d, cols, false, false, key == 0 ? 0 : 1}, as_const(dscores), k_tile,
                       rows_of(dq_all));
        kv_beta = 1;
      }
    }
    store(dk_tile, cols, d, dk + kv_begin, at.kv_stride());
    store(dv_tile, cols, d, dv + kv_begin, at.kv_stride());
  }
  store(dq_all, length, q_cols, dq + q_begin, at.q_stride());
}

}  // namespace

void CpuBackend::attention_forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                   const Tensor& v, const AttentionShape& shape) {
  const Layout at(shape);
  const std::int64_t blocks = (at.q_length + kShortBlock - 1) / kShortBlock;
  for_float(q.dtype(), [&]<class T>(T) {
    run_tasks(at.batch * at.heads * blocks, [&](std::int64_t task) {
      const std::int64_t head = task / blocks;
      const std::int64_t block = blocks - 1 - task % blocks;  // the longest first
      forward_block<T, Acc<T>>(at, head / at.heads, head % at.heads, block * kShortBlock,
                               out.data<T>(), lse.data<Acc<T>>(), q.data<T>(), k.data<T>(),
                               v.data<T>());
    });
  });
}

void CpuBackend::attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                                    const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor& out, const Tensor& lse,
                                    const AttentionShape& shape) {
  const Layout at(shape);
  for_float(q.dtype(), [&]<class T>(T) {
    run_tasks(at.batch * at.kv_heads, [&](std::int64_t task) {
      backward_head<T, Acc<T>>(at, task / at.kv_heads, task % at.kv_heads, dq.data<T>(),
                               dk.data<T>(), dv.data<T>(), dout.data<T>(), q.data<T>(), k.data<T>(),
                               v.data<T>(), out.data<T>(), lse.data<Acc<T>>());
    });
  });
}

}  // namespace moe
