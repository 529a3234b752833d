// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"

#include "core/memory.h"

namespace moe {

Backend& cuda_backend() {
  MOE_CHECK(cuda_available(), "this machine has no CUDA device");
  static CudaBackend backend(cublas_lt_products(nullptr));
  return backend;
}

}  // namespace moe
