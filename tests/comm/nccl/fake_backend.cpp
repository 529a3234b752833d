// SPDX-License-Identifier: Apache-2.0
// The CUDA backend of a fake device: emulated kernels, each when its stream comes to it.
#include <array>
#include <memory>

#include "comm/nccl/fake_device.h"
#include "core/cuda_device.h"
#include "kernels/cuda/cuda_backend.h"
#include "support/cuda_emulator.h"

namespace moe {

void fake::run_kernels_on_streams() { emulator::set_stream_runner(enqueue); }

Backend& cuda_backend() {
  static std::array<std::unique_ptr<CudaBackend>, 8> backends;  // by device: one thread each
  auto& backend = backends.at(std::size_t(fake::device_of_thread()));
  CUstream_st* const stream = cuda::compute_stream();
  if (backend == nullptr)
    backend =
        std::make_unique<CudaBackend>(plain_products(stream), plain_attention(stream), stream);
  return *backend;
}

}  // namespace moe
