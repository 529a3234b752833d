// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/vectorize.h"

namespace moe {

void CpuBackend::embedding_forward(Tensor& y, const Tensor& table, const Tensor& ids) {
  gather_rows(y, table, ids, 1);
}

void CpuBackend::embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) {
  const std::int64_t vocabulary = dtable.rows(), cols = dtable.cols(), rows = ids.size();
  const std::int32_t* id = ids.data<std::int32_t>();

  // Positions sorted by id, in order within an id: row v sums order[first[v] .. first[v + 1]).
  std::vector<std::int64_t> first(std::size_t(vocabulary) + 1), next;
  for (std::int64_t i = 0; i < rows; ++i)
    if (id[i] >= 0) ++first[std::size_t(id[i]) + 1];
  for (std::size_t v = 1; v < first.size(); ++v) first[v] += first[v - 1];
  next = first;
  std::vector<std::int64_t> order(std::size_t(first.back()));
  for (std::int64_t i = 0; i < rows; ++i)
    if (id[i] >= 0) order[std::size_t(next[std::size_t(id[i])]++)] = i;

  for_float(dy.dtype(), [&]<class T>(T) {
    using A = Acc<T>;
    A* out = dtable.data<A>();
    const T* in = dy.data<T>();
    parallel_for(vocabulary, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t v = begin; v < end; ++v)
        if (first[std::size_t(v)] == first[std::size_t(v) + 1])
          std::fill_n(out + v * cols, cols, A(0));
    });
    // Chunks of positions rather than of ids share the work evenly when a few ids are frequent:
    // an id belongs to the chunk where its positions start. An id may occur a thousand times and
    // more, so sums are in double.
    const std::int64_t placed = std::int64_t(order.size());
    parallel_for(placed, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
      constexpr std::int64_t kBlock = 512;
      double block[kBlock];
      double* sum = block;
      for (std::int64_t p = begin; p < end; ++p) {
        const auto v = std::size_t(id[order[std::size_t(p)]]);
        if (first[v] != p) continue;
        for (std::int64_t column = 0; column < cols; column += kBlock) {
          const std::int64_t n = std::min(kBlock, cols - column);
          std::fill_n(sum, n, 0.0);
          for (std::int64_t q = p; q < first[v + 1]; ++q) {
            const T* row = in + order[std::size_t(q)] * cols + column;
            each(0, n, [=](std::int64_t j) { sum[j] += double(row[j]); });
          }
          A* to = out + std::int64_t(v) * cols + column;
          each(0, n, [=](std::int64_t j) { to[j] = A(sum[j]); });
        }
      }
    });
  });
}

}  // namespace moe
