// SPDX-License-Identifier: Apache-2.0
#include "core/parallel.h"
#include "kernels/cpu/cpu_backend.h"

namespace moe {

void CpuBackend::normal(Tensor& x, std::span<const Philox> streams) {
  if (x.size() == 0) return;
  const std::int64_t part = x.size() / std::int64_t(streams.size());
  for_accumulator(x.dtype(), [&]<class A>(A) {
    A* out = x.data<A>();
    parallel_for(x.size(), 4096, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        out[i] = A(streams[std::size_t(i / part)].normal(std::uint64_t(i % part)));
    });
  });
}

}  // namespace moe
