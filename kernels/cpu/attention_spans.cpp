// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>

#include "core/parallel.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/vectorize.h"

namespace moe {

void CpuBackend::segment_offsets(Tensor& offsets, const Tensor& counts) {
  const std::int64_t segments = counts.rows(), experts = counts.cols();
  std::int32_t* offset = offsets.data<std::int32_t>();
  const std::int64_t* count = counts.data<std::int64_t>();
  std::int64_t rows = 0;
  for (std::int64_t e = 0; e < experts; ++e)
    for (std::int64_t s = 0; s < segments; ++s) {
      *offset++ = std::int32_t(rows);
      rows += count[s * experts + e];
    }
  *offset = std::int32_t(rows);
}

void CpuBackend::attention_spans(Tensor& begin, Tensor& end, Tensor& positions,
                                 const Tensor& row_to_slot, std::int64_t k, const Tensor& starts,
                                 std::int64_t length, const Tensor& offsets) {
  std::int32_t *begins = begin.data<std::int32_t>(), *ends = end.data<std::int32_t>();
  std::int32_t* position = positions.data<std::int32_t>();
  const std::int32_t* slot = row_to_slot.data<std::int32_t>();
  const std::int32_t* start = starts.defined() ? starts.data<std::int32_t>() : nullptr;
  const std::int32_t* offset = offsets.defined() ? offsets.data<std::int32_t>() : nullptr;
  const std::int64_t runs = offsets.defined() ? offsets.size() : 0;
  parallel_for(row_to_slot.size(), kGrain, [=](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      const std::int64_t t = slot[r] / k;
      position[r] = std::int32_t(t % length - (start == nullptr ? 0 : start[t]));
      const std::int64_t document = t - position[r];
      if (offset == nullptr) {
        begins[r] = std::int32_t(document);
        ends[r] = std::int32_t(t + 1);
        continue;
      }
      const std::int32_t run = *(std::upper_bound(offset, offset + runs, r) - 1);
      const auto before = [=](std::int32_t s, std::int64_t token) { return s / k < token; };
      begins[r] = std::int32_t(std::lower_bound(slot + run, slot + r, document, before) - slot);
      ends[r] = std::int32_t(r + 1);
    }
  });
}

}  // namespace moe
