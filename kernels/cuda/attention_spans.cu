// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/run_search.h"
#include "kernels/cuda/warp_rows.h"

namespace moe {
namespace {

// offsets[i] = the sum of the counts of all (expert, segment) before i, expert-major: one block, a
// stretch of neighbours for each thread. Bytes moved: the counts twice, a few thousand at most.
__global__ void __launch_bounds__(kThreads)
    segment_offsets_kernel(std::int32_t* offsets, const std::int64_t* counts, std::int64_t segments,
                           std::int64_t experts) {
  __shared__ std::int64_t sums[kThreads];
  const std::int64_t runs = segments * experts, part = (runs + kThreads - 1) / kThreads;
  const std::int64_t first = min(runs, std::int64_t(threadIdx.x) * part),
                     last = min(runs, first + part);
  const auto rows = [=](std::int64_t run) {
    return counts[run % segments * experts + run / segments];
  };
  std::int64_t sum = 0;
  for (std::int64_t run = first; run < last; ++run) sum += rows(run);
  sums[threadIdx.x] = sum;
  __syncthreads();
  std::int64_t offset = 0;
  for (unsigned i = 0; i < threadIdx.x; ++i) offset += sums[i];
  for (std::int64_t run = first; run < last; ++run) {
    offsets[run] = std::int32_t(offset);
    offset += rows(run);
  }
  if (threadIdx.x == kThreads - 1) offsets[runs] = std::int32_t(offset);
}

// A thread for each row. Bytes moved: 16 a row; searches find their numbers in the caches.
__global__ void __launch_bounds__(kThreads)
    attention_spans_kernel(std::int32_t* begin, std::int32_t* end, std::int32_t* positions,
                           const std::int32_t* row_to_slot, int k, const std::int32_t* starts,
                           int length, const std::int32_t* offsets, std::int64_t runs,
                           std::int64_t rows) {
  each_element(rows, [=](std::int64_t r) {
    const int t = row_to_slot[r] / k;
    const int position = t % length - (starts == nullptr ? 0 : starts[t]), document = t - position;
    positions[r] = position;
    if (offsets == nullptr) {
      begin[r] = document;
      end[r] = t + 1;
      return;
    }
    const int run = first_with(0, int(runs), [=](int i) { return offsets[i + 1] > r; });
    begin[r] =
        first_with(offsets[run], int(r), [=](int i) { return row_to_slot[i] / k >= document; });
    end[r] = int(r) + 1;
  });
}

}  // namespace

void CudaBackend::segment_offsets(Tensor& offsets, const Tensor& counts) {
  launch(segment_offsets_kernel, 1, kThreads, 0, stream_, offsets.data<std::int32_t>(),
         counts.data<std::int64_t>(), counts.rows(), counts.cols());
}

void CudaBackend::attention_spans(Tensor& begin, Tensor& end, Tensor& positions,
                                  const Tensor& row_to_slot, std::int64_t k, const Tensor& starts,
                                  std::int64_t length, const Tensor& offsets) {
  const std::int64_t rows = row_to_slot.size();
  if (rows == 0) return;
  const auto integers = [](const Tensor& t) {
    return t.defined() ? t.data<std::int32_t>() : nullptr;
  };
  launch(attention_spans_kernel, blocks_for(rows), kThreads, 0, stream_, begin.data<std::int32_t>(),
         end.data<std::int32_t>(), positions.data<std::int32_t>(), row_to_slot.data<std::int32_t>(),
         int(k), integers(starts), int(length), integers(offsets),
         offsets.defined() ? offsets.size() - 1 : 0, rows);
}

}  // namespace moe
