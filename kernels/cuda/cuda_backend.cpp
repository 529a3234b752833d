// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"

#include "core/cuda_device.h"
#include "kernels/cuda/cudnn_attention.h"

namespace moe {

Backend& cuda_backend() {
  CUstream_st* const stream = cuda::compute_stream();
  static CudaBackend backend(cublas_lt_products(stream),
                             cudnn_attention(cudnn_target(stream), plain_attention(stream)),
                             stream);
  return backend;
}

}  // namespace moe
