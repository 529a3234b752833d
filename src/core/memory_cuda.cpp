// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include "core/cuda_check.h"
#include "core/memory.h"

namespace moe {

bool cuda_available() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

namespace cuda {

std::shared_ptr<std::byte> allocate(std::size_t bytes) {
  void* block = nullptr;
  CUDA_CHECK(cudaMallocAsync(&block, bytes, nullptr));
  return {static_cast<std::byte*>(block), [](std::byte* p) { cudaFreeAsync(p, nullptr); }};
}

void copy_bytes(void* dst, const void* src, std::size_t bytes) {
  CUDA_CHECK(cudaMemcpy(dst, src, bytes, cudaMemcpyDefault));
}

}  // namespace cuda
}  // namespace moe
