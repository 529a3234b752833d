// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/vector.h"

// Attention for any shape, with the softmax as a stream over tiles of 32 keys (Dao et al. 2022): a
// warp for each query (for dk and dv: for each key), a lane for each key of a tile (query), and for
// each column of the result. What faster kernels are held against. Keys and values are read once
// for every query that sees them, from the cache as far as they fit.

namespace moe {
namespace {

constexpr unsigned kMaxWarps = 8;  // of a block

// AttentionShape and what follows from it. Indices of elements may pass 2^31, all else is an int.
struct Layout {
  int batch, q_length, kv_length, heads, kv_heads, head_dim;
  const std::int32_t* starts;  // of the queries' documents, null: all 0
  Layout(const AttentionShape& shape, const Tensor& documents)
      : batch(int(shape.batch)),
        q_length(int(shape.q_length)),
        kv_length(int(shape.kv_length)),
        heads(int(shape.heads)),
        kv_heads(int(shape.kv_heads)),
        head_dim(int(shape.head_dim)),
        starts(documents.defined() ? documents.data<std::int32_t>() : nullptr) {}
  __device__ int q_stride() const { return heads * head_dim; }
  __device__ int kv_stride() const { return kv_heads * head_dim; }
  __device__ int group() const { return heads / kv_heads; }
  __device__ int offset() const { return kv_length - q_length; }  // position of query 0
  __device__ int first_key(int b, int i) const {
    return starts == nullptr ? 0 : starts[b * q_length + i];
  }
  __device__ std::int64_t q_index(int b, int h, int i) const {
    return (std::int64_t(b) * q_length + i) * q_stride() + h * head_dim;
  }
  __device__ std::int64_t kv_index(int b, int kv_head, int j) const {
    return (std::int64_t(b) * kv_length + j) * kv_stride() + kv_head * head_dim;
  }
};

// What a warp keeps in shared memory: `vectors` of head_dim numbers and `weights` of 32.
template <class A>
struct WarpMemory {
  A* begin;
  int head_dim;
  int vectors;
  __device__ A* vector(int i) const { return begin + i * head_dim; }
  __device__ A* weights(int i) const { return begin + vectors * head_dim + i * int(kWarp); }
};

int warp_memory_size(int head_dim, int vectors, int weights) {
  return vectors * head_dim + weights * int(kWarp);
}

template <class A>
__device__ WarpMemory<A> warp_memory(int head_dim, int vectors, int weights) {
  DYNAMIC_SHARED(A, shared);
  const int size = vectors * head_dim + weights * int(kWarp);
  return {shared + threadIdx.x / kWarp * size, head_dim, vectors};
}

__device__ __forceinline__ int lane_index() { return int(threadIdx.x % kWarp); }
__device__ __forceinline__ int grid_warp() { return int(grid_thread() / kWarp); }
__device__ __forceinline__ int grid_warps() { return int(grid_threads() / kWarp); }

// to[0, n) = from[0, n), by the lanes of a warp.
template <class A, class T>
__device__ __forceinline__ void copy_row(A* to, const T* from, int n) {
  for (int e = lane_index(); e < n; e += kWarp) to[e] = A(widen(from[e]));
}

template <class A>
__device__ __forceinline__ void clear_row(A* to, int n) {
  for (int e = lane_index(); e < n; e += kWarp) to[e] = 0;
}

template <class T, class A>
__device__ __forceinline__ void store_row(T* to, const A* from, int n, A factor) {
  for (int e = lane_index(); e < n; e += kWarp) to[e] = narrow<T>(from[e] * factor);
}

// sum[e] = keep * sum[e] + the sum over r < rows of weight[r] * from[r * stride + e]:
// lanes share the e, so nothing needs to wait.
template <class A, class T>
__device__ __forceinline__ void add_rows(A* sum, A keep, const A* weight, int rows, const T* from,
                                         int stride, int n) {
  for (int e = lane_index(); e < n; e += kWarp) {
    A s = sum[e] * keep;
    for (int r = 0; r < rows; ++r) s += weight[r] * A(widen(from[std::int64_t(r) * stride + e]));
    sum[e] = s;
  }
}

// <shared, row>, by one lane.
template <class A, class T>
__device__ __forceinline__ A dot(const A* shared, const T* row, int n, bool whole) {
  constexpr int kPart = kWidth<T>;
  A sum = 0;
  for (int e = 0; e < n; e += kPart) {
    const Vector<T, kPart> part = load<kPart>(row + e, n - e, whole);
#pragma unroll
    for (int i = 0; i < kPart; ++i)
      if (e + i < n) sum += shared[e + i] * A(widen(part.at[i]));
  }
  return sum;
}

template <class T>
__global__ void __launch_bounds__(kMaxWarps* kWarp)
    attention_forward_kernel(Layout at, Acc<T> scale, bool whole, T* out, Acc<T>* lse, const T* q,
                             const T* k, const T* v) {
  using A = Acc<T>;
  const int d = at.head_dim;
  const WarpMemory<A> memory = warp_memory<A>(d, 2, 1);
  A *query = memory.vector(0), *sums = memory.vector(1), *weights = memory.weights(0);
  const int rows = at.batch * at.heads * at.q_length;
  for (int row = grid_warp(); row < rows; row += grid_warps()) {
    const int i = row % at.q_length, h = row / at.q_length % at.heads,
              b = row / at.q_length / at.heads;
    const int visible = i + at.offset() + 1;
    const std::int64_t first = at.kv_index(b, h / at.group(), 0);
    copy_row(query, q + at.q_index(b, h, i), d);
    clear_row(sums, d);
    __syncwarp();
    A largest = -INFINITY, total = 0;
    for (int key = at.first_key(b, i); key < visible; key += kWarp) {
      const int mine = key + lane_index();
      const std::int64_t from = first + std::int64_t(key) * at.kv_stride();
      const bool seen = mine < visible;
      const A score =
          seen ? scale * dot(query, k + first + std::int64_t(mine) * at.kv_stride(), d, whole)
               : A(-INFINITY);
      const A now = fmax(largest, warp_max(score));
      const A weight = seen ? exp(score - now) : A(0), keep = exp(largest - now);
      weights[lane_index()] = weight;
      total = total * keep + warp_sum(weight);
      largest = now;
      __syncwarp();
      add_rows(sums, keep, weights, min(int(kWarp), visible - key), v + from, at.kv_stride(), d);
      __syncwarp();  // before the next tile's weights
    }
    store_row(out + at.q_index(b, h, i), sums, d, A(1) / total);
    if (lane_index() == 0) lse[row] = largest + log(total);
    __syncwarp();  // before the next query
  }
}

// dq, and delta[b, h, i] = <dout, out>, which dk and dv need too.
template <class T>
__global__ void __launch_bounds__(kMaxWarps* kWarp)
    attention_dq_kernel(Layout at, Acc<T> scale, bool whole, T* dq, Acc<T>* delta, const T* dout,
                        const T* q, const T* k, const T* v, const T* out, const Acc<T>* lse) {
  using A = Acc<T>;
  const int d = at.head_dim;
  const WarpMemory<A> memory = warp_memory<A>(d, 3, 1);
  A *query = memory.vector(0), *gradient = memory.vector(1), *sums = memory.vector(2),
    *weights = memory.weights(0);
  const int rows = at.batch * at.heads * at.q_length;
  for (int row = grid_warp(); row < rows; row += grid_warps()) {
    const int i = row % at.q_length, h = row / at.q_length % at.heads,
              b = row / at.q_length / at.heads;
    const int visible = i + at.offset() + 1;
    const std::int64_t first = at.kv_index(b, h / at.group(), 0);
    const std::int64_t here = at.q_index(b, h, i);
    copy_row(query, q + here, d);
    copy_row(gradient, dout + here, d);
    clear_row(sums, d);
    A mean = 0;
    for (int e = lane_index(); e < d; e += kWarp)
      mean += A(widen(dout[here + e])) * A(widen(out[here + e]));
    mean = warp_sum(mean);
    if (lane_index() == 0) delta[row] = mean;
    __syncwarp();
    for (int key = at.first_key(b, i); key < visible; key += kWarp) {
      const std::int64_t mine = first + std::int64_t(key + lane_index()) * at.kv_stride();
      A weight = 0;
      if (key + lane_index() < visible) {
        const A p = exp(scale * dot(query, k + mine, d, whole) - lse[row]);
        weight = scale * p * (dot(gradient, v + mine, d, whole) - mean);
      }
      weights[lane_index()] = weight;
      __syncwarp();
      add_rows(sums, A(1), weights, min(int(kWarp), visible - key),
               k + first + std::int64_t(key) * at.kv_stride(), at.kv_stride(), d);
      __syncwarp();  // before the next tile's weights
    }
    store_row(dq + here, sums, d, A(1));
    __syncwarp();  // before the next query
  }
}

// dk and dv: a warp for each key, over the queries of all heads that read it, 32 at a time.
template <class T>
__global__ void __launch_bounds__(kMaxWarps* kWarp)
    attention_dkv_kernel(Layout at, Acc<T> scale, bool whole, T* dk, T* dv, const T* dout,
                         const T* q, const T* k, const T* v, const Acc<T>* lse,
                         const Acc<T>* delta) {
  using A = Acc<T>;
  const int d = at.head_dim;
  const WarpMemory<A> memory = warp_memory<A>(d, 4, 2);
  A *key = memory.vector(0), *value = memory.vector(1), *dkey = memory.vector(2),
    *dvalue = memory.vector(3), *ps = memory.weights(0), *dscores = memory.weights(1);
  const int keys = at.batch * at.kv_heads * at.kv_length;
  for (int row = grid_warp(); row < keys; row += grid_warps()) {
    const int j = row % at.kv_length, kv_head = row / at.kv_length % at.kv_heads,
              b = row / at.kv_length / at.kv_heads;
    const std::int64_t here = at.kv_index(b, kv_head, j);
    copy_row(key, k + here, d);
    copy_row(value, v + here, d);
    clear_row(dkey, d);
    clear_row(dvalue, d);
    __syncwarp();
    for (int h = kv_head * at.group(); h < (kv_head + 1) * at.group(); ++h)
      for (int tile = max(0, j - at.offset()); tile < at.q_length; tile += kWarp) {
        const int i = tile + lane_index();
        const std::int64_t mine = at.q_index(b, h, i);
        const bool sees = i < at.q_length && at.first_key(b, i) <= j;
        if (!__any_sync(kAllLanes, sees)) continue;
        A p = 0, dscore = 0;
        if (sees) {
          const int stored = (b * at.heads + h) * at.q_length + i;
          p = exp(scale * dot(key, q + mine, d, whole) - lse[stored]);
          dscore = scale * p * (dot(value, dout + mine, d, whole) - delta[stored]);
        }
        ps[lane_index()] = p;
        dscores[lane_index()] = dscore;
        __syncwarp();
        const int count = min(int(kWarp), at.q_length - tile);
        const std::int64_t from = at.q_index(b, h, tile);
        add_rows(dvalue, A(1), ps, count, dout + from, at.q_stride(), d);
        add_rows(dkey, A(1), dscores, count, q + from, at.q_stride(), d);
        __syncwarp();  // before the next tile's weights
      }
    store_row(dk + here, dkey, d, A(1));
    store_row(dv + here, dvalue, d, A(1));
    __syncwarp();  // before the next key
  }
}

// Launches one warp for each of `rows`, as many in a block as shared memory has room for.
template <class A, class... Parameters, class... Arguments>
void launch_warps(void (*kernel)(Parameters...), cudaStream_t stream, std::int64_t rows,
                  const Layout& at, int vectors, int weights, Arguments... arguments) {
  if (rows == 0) return;
  MOE_CHECK(rows < (std::int64_t{1} << 31), "attention over ", rows, " rows of all heads");
  const std::size_t bytes =
      std::size_t(warp_memory_size(at.head_dim, vectors, weights)) * sizeof(A);
  const std::size_t warps = std::min<std::size_t>(kMaxSharedBytes / bytes, kMaxWarps);
  MOE_CHECK(warps > 0, "attention over heads of ", at.head_dim, " needs more shared memory than ",
            kMaxSharedBytes, " bytes");
  launch(kernel, blocks_for(rows, std::int64_t(warps)), unsigned(warps) * kWarp, warps * bytes,
         stream, at, arguments...);
}

class PlainAttention final : public Attention {
 public:
  explicit PlainAttention(cudaStream_t stream) : stream_(stream) {}

  void forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
               const Tensor& starts, const AttentionShape& shape) override {
    const Layout at(shape, starts);
    for_float(q.dtype(), [&]<class T>(T) {
      using A = Acc<T>;
      const T *pq = q.data<T>(), *pk = k.data<T>(), *pv = v.data<T>();
      launch_warps<A>(
          attention_forward_kernel<T>, stream_, shape.batch * shape.heads * shape.q_length, at, 2,
          1, A(1 / std::sqrt(double(shape.head_dim))),
          aligned(pk) && shape.head_dim % kWidth<T> == 0, out.data<T>(), lse.data<A>(), pq, pk, pv);
    });
  }

  void backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
                const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                const Tensor& starts, const AttentionShape& shape) override {
    const Layout at(shape, starts);
    const Tensor deltas = empty_like(lse);
    for_float(q.dtype(), [&]<class T>(T) {
      using A = Acc<T>;
      const T *pq = q.data<T>(), *pk = k.data<T>(), *pv = v.data<T>(), *pdout = dout.data<T>();
      const A* plse = lse.data<A>();
      const A scale = A(1 / std::sqrt(double(shape.head_dim)));
      const bool whole = aligned(pq, pk, pv, pdout) && shape.head_dim % kWidth<T> == 0;
      launch_warps<A>(attention_dq_kernel<T>, stream_, shape.batch * shape.heads * shape.q_length,
                      at, 3, 1, scale, whole, dq.data<T>(), deltas.data<A>(), pdout, pq, pk, pv,
                      out.data<T>(), plse);
      launch_warps<A>(attention_dkv_kernel<T>, stream_,
                      shape.batch * shape.kv_heads * shape.kv_length, at, 4, 2, scale, whole,
                      dk.data<T>(), dv.data<T>(), pdout, pq, pk, pv, plse, deltas.data<A>());
    });
  }

 private:
  cudaStream_t stream_;
};

}  // namespace

std::unique_ptr<Attention> plain_attention(CUstream_st* stream) {
  return std::make_unique<PlainAttention>(stream);
}

}  // namespace moe
