// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/vectorize.h"

namespace moe {

void CpuBackend::sort_by_expert(Tensor& counts, Tensor& slot_to_row, Tensor& row_to_slot,
                                const Tensor& indices, const Tensor& order) {
  const std::int64_t experts = counts.size(), slots = indices.size();
  std::int64_t* count = counts.data<std::int64_t>();
  std::int32_t* rows = slot_to_row.data<std::int32_t>();
  std::int32_t* slot_of = row_to_slot.data<std::int32_t>();
  const std::int32_t* index = indices.data<std::int32_t>();

  std::fill_n(count, experts, 0);
  for (std::int64_t s = 0; s < slots; ++s)
    if (index[s] >= 0) ++count[index[s]];
  std::vector<std::int32_t> next(static_cast<std::size_t>(experts));
  std::int64_t placed = 0;
  for (std::int64_t i = 0; i < experts; ++i) {
    const std::int64_t e = order.defined() ? order.data<std::int32_t>()[i] : i;
    next[std::size_t(e)] = std::int32_t(placed);
    placed += count[e];
  }
  for (std::int64_t s = 0; s < slots; ++s) {
    rows[s] = index[s] < 0 ? -1 : next[std::size_t(index[s])]++;
    if (rows[s] >= 0) slot_of[rows[s]] = std::int32_t(s);
  }
  std::fill(slot_of + placed, slot_of + slots, -1);
}

void CpuBackend::gather_rows(Tensor& y, const Tensor& x, const Tensor& index,
                             std::int64_t divisor) {
  const auto bytes = std::int64_t(size_of(x.dtype())) * x.cols();
  std::byte* to = y.bytes();
  const std::byte* from = x.bytes();
  const std::int32_t* source = index.data<std::int32_t>();
  parallel_for(y.rows(), row_grain(x.cols()), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      if (source[i] < 0)
        std::memset(to + i * bytes, 0, std::size_t(bytes));
      else
        std::memcpy(to + i * bytes, from + source[i] / divisor * bytes, std::size_t(bytes));
    }
  });
}

void CpuBackend::combine_forward(Tensor& y, const Tensor& rows, const Tensor& weights,
                                 const Tensor& slot_to_row, double factor) {
  const std::int64_t tokens = y.rows(), cols = y.cols(), k = slot_to_row.cols();
  for_float(y.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    constexpr std::int64_t kBlock = 1024;
    T* py = y.data<T>();
    const T* px = rows.data<T>();
    const A* pw = weights.defined() ? weights.data<A>() : nullptr;
    const std::int32_t* row_of = slot_to_row.data<std::int32_t>();
    const A f = A(factor);
    parallel_for(tokens, row_grain(cols * k), [=](std::int64_t begin, std::int64_t end) {
      A block[kBlock];
      A* sum = block;
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int64_t first = 0; first < cols; first += kBlock) {
          const std::int64_t n = std::min(kBlock, cols - first);
          std::fill_n(sum, n, A(0));
          for (std::int64_t s = t * k; s < (t + 1) * k; ++s) {
            if (row_of[s] < 0) continue;
            const T* x = px + row_of[s] * cols + first;
            const A w = pw == nullptr ? A(1) : pw[s];
            each(0, n, [=](std::int64_t j) { sum[j] += w * A(x[j]); });
          }
          T* out = py + t * cols + first;
          each(0, n, [=](std::int64_t j) { out[j] = T(f * sum[j]); });
        }
      }
    });
  });
}

void CpuBackend::combine_backward(Tensor& drows, Tensor& dweights, const Tensor& dy,
                                  const Tensor& rows, const Tensor& weights,
                                  const Tensor& slot_to_row, double factor) {
  const std::int64_t tokens = dy.rows(), cols = dy.cols(), k = slot_to_row.cols();
  for_float(dy.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    T* pdx = drows.data<T>();
    A* pdw = dweights.data<A>();
    const T *pdy = dy.data<T>(), *px = rows.data<T>();
    const A* pw = weights.defined() ? weights.data<A>() : nullptr;
    const std::int32_t* row_of = slot_to_row.data<std::int32_t>();
    parallel_for(tokens, row_grain(cols * k), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t s = begin * k; s < end * k; ++s) {
        if (row_of[s] < 0) {
          pdw[s] = 0;
          continue;
        }
        const T *g = pdy + s / k * cols, *x = px + row_of[s] * cols;
        T* dx = pdx + row_of[s] * cols;
        const A w = A(factor) * (pw == nullptr ? A(1) : pw[s]);
        const double dot = sum_of(0, cols, [=](std::int64_t j) {
          const A product = A(g[j]) * A(x[j]);
          dx[j] = T(w * A(g[j]));
          return product;
        });
        pdw[s] = A(factor * dot);
      }
    });
  });
}

}  // namespace moe
