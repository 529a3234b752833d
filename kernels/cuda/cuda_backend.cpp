// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"

#include <cstdlib>
#include <string>

#include "core/cuda_device.h"
#include "kernels/cuda/cudnn_attention.h"

namespace moe {

namespace {

/// The choice is the environment's until the kernel has run on a device and been measured there.
std::unique_ptr<GroupedProducts> wanted_grouped_products(CUstream_st* stream) {
  const char* const wish = std::getenv("MOE_GROUPED_GEMM");
  const std::string choice = wish == nullptr ? "loop" : wish;
  if (choice == "loop") return nullptr;
  MOE_REQUIRE(choice == "hopper", "MOE_GROUPED_GEMM is '", choice, "': choose loop or hopper");
  const int capability = cuda::compute_capability();
  MOE_REQUIRE(capability == 90, "MOE_GROUPED_GEMM=hopper needs compute capability 9.0, ",
              cuda::device_name(), " has ", capability / 10, ".", capability % 10, ": choose loop");
  return hopper_grouped_products(stream, cuda::processors());
}

}  // namespace

Backend& cuda_backend() {
  CUstream_st* const stream = cuda::compute_stream();
  static CudaBackend backend(cublas_lt_products(stream),
                             cudnn_attention(cudnn_target(stream), plain_attention(stream)), stream,
                             wanted_grouped_products(stream));
  return backend;
}

}  // namespace moe
