// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/ordered_sum.h"
#include "kernels/cuda/vector.h"

namespace moe {
namespace {

template <class T>
using TotalOf = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

// Bytes: every summand and out once. No pointer is restricted: out may be a summand, each element
// of which is read before it is written.
template <class Out, class In>
__global__ void __launch_bounds__(kThreads)
    ordered_sum_kernel(std::int64_t size, bool whole, Out* out, const In* own, int own_number,
                       const In* others, std::int64_t stride, int summands) {
  constexpr int n = kWidth<Out, In>;
  for (std::int64_t i = grid_thread() * n; i < size; i += grid_threads() * n) {
    const auto summand = [&](int p) {
      const int row = own != nullptr && p > own_number ? p - 1 : p;
      const In* x = own != nullptr && p == own_number ? own : others + row * stride;
      return load<n>(x + i, size - i, whole);
    };
    const Vector<In, n> first = summand(0);
    TotalOf<In> totals[n];
#pragma unroll
    for (int j = 0; j < n; ++j) totals[j] = widen(first.at[j]);
    for (int p = 1; p < summands; ++p) {
      const Vector<In, n> in = summand(p);
#pragma unroll
      for (int j = 0; j < n; ++j) totals[j] += widen(in.at[j]);
    }
    Vector<Out, n> sums;
#pragma unroll
    for (int j = 0; j < n; ++j) sums.at[j] = narrow<Out>(totals[j]);
    store(out + i, sums, size - i, whole);
  }
}

template <class Out, class In>
void sum(CUstream_st* stream, const Tensor& out, const Tensor& own, int own_number,
         const Tensor& others, int summands) {
  if (out.size() == 0) return;
  Out* const y = out.data<Out>();
  const In* const x = own.defined() ? own.data<In>() : nullptr;
  const In* const rows = others.defined() ? others.data<In>() : nullptr;
  const std::int64_t stride = others.defined() ? others.cols() : 0;
  constexpr int n = kWidth<Out, In>;
  launch(ordered_sum_kernel<Out, In>, blocks_for(ceil_div(out.size(), n)), kThreads, 0, stream,
         out.size(), aligned(y, x, rows) && stride % n == 0, y, x, own_number, rows, stride,
         summands);
}

}  // namespace

void sum_on_stream(CUstream_st* stream, const Tensor& out, const Tensor& own, int own_number,
                   const Tensor& others, int summands) {
  const DType in = own.defined() ? own.dtype() : others.dtype();
  if (in == DType::i64)
    return sum<std::int64_t, std::int64_t>(stream, out, own, own_number, others, summands);
  for_float(in, [&]<class T>(T) {
    if (out.dtype() == in) return sum<T, T>(stream, out, own, own_number, others, summands);
    if constexpr (std::is_same_v<T, bf16>)
      sum<float, bf16>(stream, out, own, own_number, others, summands);
  });
}

}  // namespace moe
