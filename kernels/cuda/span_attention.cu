// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/run_search.h"
#include "kernels/cuda/warp_rows.h"

// Attention over spans of keys for any shape: a warp for each row and head, and in the second half
// of the backward pass for each key; lanes share the columns of a head.

namespace moe {
namespace {

constexpr int kParts = 8;  // columns of a lane: heads of up to 256

// SpanAttentionShape and AttentionSpans as kernels take them.
struct Spans {
  int groups, segments, heads, kv_heads, head_dim;
  std::int64_t rows, keys;
  const std::int32_t *begin, *end, *query_offsets, *key_offsets;

  Spans(const SpanAttentionShape& s, const AttentionSpans& spans, const Tensor& k)
      : groups(int(s.groups)),
        segments(int(s.segments)),
        heads(int(s.heads)),
        kv_heads(int(s.kv_heads)),
        head_dim(int(s.head_dim)),
        rows(spans.begin.size()),
        keys(k.rows()),
        begin(spans.begin.data<std::int32_t>()),
        end(spans.end.data<std::int32_t>()),
        query_offsets(spans.query_offsets.data<std::int32_t>()),
        key_offsets(spans.key_offsets.data<std::int32_t>()) {
    MOE_CHECK(head_dim <= kParts * int(kWarp), "span attention over heads of ", head_dim,
              " columns; at most ", kParts * int(kWarp));
  }
  __device__ int head_group() const { return heads / kv_heads; }
};

// A lane's columns of one head of one row.
template <class A>
struct Columns {
  A at[kParts];

  template <class T>
  static __device__ __forceinline__ Columns of(const T* head, int n) {
    Columns c;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int e = i * int(kWarp) + lane_index();
      c.at[i] = e < n ? A(widen(head[e])) : A(0);
    }
    return c;
  }
  __device__ __forceinline__ A dot(const Columns& other) const {
    A sum = 0;
#pragma unroll
    for (int i = 0; i < kParts; ++i) sum += at[i] * other.at[i];
    return warp_sum(sum);
  }
  __device__ __forceinline__ void add(A factor, const Columns& other) {
#pragma unroll
    for (int i = 0; i < kParts; ++i) at[i] += factor * other.at[i];
  }
  __device__ __forceinline__ void scale(A factor) {
#pragma unroll
    for (int i = 0; i < kParts; ++i) at[i] *= factor;
  }
  template <class T>
  __device__ __forceinline__ void store(T* head, int n) const {
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int e = i * int(kWarp) + lane_index();
      if (e < n) head[e] = narrow<T>(at[i]);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    span_forward_kernel(Spans at, Acc<T> scale, T* out, Acc<T>* lse, const T* q, const T* k,
                        const T* v) {
  using A = Acc<T>;
  const int d = at.head_dim;
  each_row(at.rows * at.heads, [&](std::int64_t item) {
    const std::int64_t r = item / at.heads;
    const int kv_head = int(item % at.heads) / at.head_group();
    const auto query = Columns<A>::of(q + item * d, d);
    Columns<A> sums = {};
    A largest = -INFINITY, total = 0;
    for (std::int64_t j = at.begin[r]; j < at.end[r]; ++j) {
      const std::int64_t key = (j * at.kv_heads + kv_head) * d;
      const A score = scale * query.dot(Columns<A>::of(k + key, d));
      const A now = fmax(largest, score), keep = exp(largest - now), weight = exp(score - now);
      total = total * keep + weight;
      sums.scale(keep);
      sums.add(weight, Columns<A>::of(v + key, d));
      largest = now;
    }
    sums.scale(A(1) / total);
    sums.store(out + item * d, d);
    if (lane_index() == 0) lse[item] = largest + log(total);
  });
}

// dq, and delta[row, h] = <dout, out>, which dk and dv need too.
template <class T>
__global__ void __launch_bounds__(kThreads)
    span_dq_kernel(Spans at, Acc<T> scale, T* dq, Acc<T>* delta, const T* dout, const T* q,
                   const T* k, const T* v, const T* out, const Acc<T>* lse) {
  using A = Acc<T>;
  const int d = at.head_dim;
  each_row(at.rows * at.heads, [&](std::int64_t item) {
    const std::int64_t r = item / at.heads;
    const int kv_head = int(item % at.heads) / at.head_group();
    const auto query = Columns<A>::of(q + item * d, d),
               gradient = Columns<A>::of(dout + item * d, d);
    const A mean = gradient.dot(Columns<A>::of(out + item * d, d));
    Columns<A> sums = {};
    for (std::int64_t j = at.begin[r]; j < at.end[r]; ++j) {
      const std::int64_t at_key = (j * at.kv_heads + kv_head) * d;
      const auto key = Columns<A>::of(k + at_key, d);
      const A p = exp(scale * query.dot(key) - lse[item]);
      sums.add(scale * p * (gradient.dot(Columns<A>::of(v + at_key, d)) - mean), key);
    }
    sums.store(dq + item * d, d);
    if (lane_index() == 0) delta[item] = mean;
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    span_dkv_kernel(Spans at, Acc<T> scale, T* dk, T* dv, const T* dout, const T* q, const T* k,
                    const T* v, const Acc<T>* lse, const Acc<T>* delta) {
  using A = Acc<T>;
  const int d = at.head_dim;
  each_row(at.keys * at.kv_heads, [&](std::int64_t item) {
    const int j = int(item / at.kv_heads), kv_head = int(item % at.kv_heads);
    const int segment =
        first_with(0, at.segments, [&](int s) { return at.key_offsets[s + 1] > j; });
    const auto key = Columns<A>::of(k + item * d, d), value = Columns<A>::of(v + item * d, d);
    Columns<A> dkey = {}, dvalue = {};
    for (int group = 0; group < at.groups; ++group) {
      const std::int32_t* run = at.query_offsets + group * at.segments + segment;
      const int last = run[1];
      const int first = first_with(run[0], last, [&](int r) { return at.end[r] > j; });
      for (int r = first; r < last && at.begin[r] <= j; ++r)
        for (int h = kv_head * at.head_group(); h < (kv_head + 1) * at.head_group(); ++h) {
          const std::int64_t row = std::int64_t(r) * at.heads + h;
          const auto query = Columns<A>::of(q + row * d, d),
                     gradient = Columns<A>::of(dout + row * d, d);
          const A p = exp(scale * query.dot(key) - lse[row]);
          dvalue.add(p, gradient);
          dkey.add(scale * p * (gradient.dot(value) - delta[row]), query);
        }
    }
    dkey.store(dk + item * d, d);
    dvalue.store(dv + item * d, d);
  });
}

}  // namespace

void CudaBackend::span_attention_forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                         const Tensor& v, const AttentionSpans& spans,
                                         const SpanAttentionShape& shape) {
  const Spans at(shape, spans, k);
  if (q.size() == 0) return;
  for_float(q.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    launch(span_forward_kernel<T>, blocks_for(at.rows * at.heads, kWarps), kThreads, 0, stream_, at,
           A(1 / std::sqrt(double(at.head_dim))), out.data<T>(), lse.data<A>(), q.data<T>(),
           k.data<T>(), v.data<T>());
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
    if (q.size() > 0)
      launch(span_dq_kernel<T>, blocks_for(at.rows * at.heads, kWarps), kThreads, 0, stream_, at,
             scale, dq.data<T>(), deltas.data<A>(), dout.data<T>(), q.data<T>(), k.data<T>(),
             v.data<T>(), out.data<T>(), lse.data<A>());
    if (k.size() > 0)
      launch(span_dkv_kernel<T>, blocks_for(at.keys * at.kv_heads, kWarps), kThreads, 0, stream_,
             at, scale, dk.data<T>(), dv.data<T>(), dout.data<T>(), q.data<T>(), k.data<T>(),
             v.data<T>(), lse.data<A>(), deltas.data<A>());
  });
}

}  // namespace moe
