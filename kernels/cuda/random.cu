// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/vector.h"

namespace moe {
namespace {

// Philox::normal() of `stream`: the same random bits, through the device's log and cos. Bytes: x
// once.
template <class A>
__global__ void __launch_bounds__(kThreads) normal_kernel(std::int64_t size, Philox stream, A* x) {
  constexpr double kTwoPi = 6.283185307179586;
  for (std::int64_t i = grid_thread(); i < size; i += grid_threads()) {
    const auto bits = stream.block(std::uint64_t(i));
    const double u = (double(bits[0]) + 0.5) * 0x1p-32, v = (double(bits[1]) + 0.5) * 0x1p-32;
    x[i] = A(sqrt(-2 * log(u)) * cos(kTwoPi * v));
  }
}

}  // namespace

void CudaBackend::normal(Tensor& x, std::span<const Philox> streams) {
  if (x.size() == 0) return;
  const std::int64_t part = x.size() / std::int64_t(streams.size());
  for_accumulator(x.dtype(), [&]<class A>(A) {
    A* px = x.data<A>();
    for (const Philox& stream : streams) {
      launch(normal_kernel<A>, blocks_for(part), kThreads, 0, stream_, part, stream, px);
      px += part;
    }
  });
}

}  // namespace moe
