// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace moe {

/// Threads a parallel region started by this thread would use.
inline int compute_threads() { return omp_in_parallel() ? 1 : omp_get_max_threads(); }

/// Calls body(begin, end) over chunks of [0, n), on all compute threads. Chunks are `grain` long
/// whatever the number of threads, so what is computed per chunk does not depend on it. The body
/// must not throw.
template <class Body>
void parallel_for(std::int64_t n, std::int64_t grain, Body&& body) {
  const std::int64_t chunks = (n + grain - 1) / grain;
  if (chunks <= 1 || compute_threads() == 1) {
    for (std::int64_t c = 0; c < chunks; ++c) body(c * grain, std::min(n, (c + 1) * grain));
    return;
  }
#pragma omp parallel for schedule(static)
  for (std::int64_t c = 0; c < chunks; ++c) body(c * grain, std::min(n, (c + 1) * grain));
}

/// The sum of body(begin, end) over the same chunks, added in chunk order: the same bits on any
/// number of threads.
template <class Body>
double parallel_sum(std::int64_t n, std::int64_t grain, Body&& body) {
  std::vector<double> partial(static_cast<std::size_t>((n + grain - 1) / grain));
  parallel_for(n, grain, [&](std::int64_t begin, std::int64_t end) {
    partial[static_cast<std::size_t>(begin / grain)] = body(begin, end);
  });
  double total = 0;
  for (const double p : partial) total += p;
  return total;
}

}  // namespace moe
