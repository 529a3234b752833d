// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cudnn_target.h"

#include <cudnn.h>

#include "core/cuda_device.h"
#include "core/error.h"

namespace moe {
namespace {

std::string version_text(std::size_t version) {
  return str(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

}  // namespace

CudnnTarget cudnn_target(CUstream_st* stream) {
  const std::string mismatch = cudnn_mismatch(cudnnGetVersion(), cudnnGetCudartVersion());
  if (!mismatch.empty()) throw Error(mismatch);
  CudnnTarget target;
  cudnnStatus_t status = cudnnCreate(&target.handle);
  MOE_CHECK(status == CUDNN_STATUS_SUCCESS, "cudnnCreate: ", cudnnGetErrorString(status));
  status = cudnnSetStream(target.handle, stream);
  MOE_CHECK(status == CUDNN_STATUS_SUCCESS, "cudnnSetStream: ", cudnnGetErrorString(status));
  target.capability = cuda::compute_capability();
  return target;
}

std::string cudnn_mismatch(std::size_t version, std::size_t cudart_version) {
  if (version / 10000 != CUDNN_MAJOR || version < CUDNN_VERSION)
    return str("cuDNN ", version_text(version), " was loaded, but this program was built with ",
               version_text(CUDNN_VERSION), ": put that or a later ", CUDNN_MAJOR,
               ".x where the loader finds it first, or build against the one that is there");
  if (cudart_version / 1000 != CUDART_VERSION / 1000)
    return str("cuDNN ", version_text(version), " for CUDA ", cudart_version / 1000,
               " was loaded, but this program was built with CUDA ", CUDART_VERSION / 1000,
               ": install the cuDNN for that");
  return "";
}

}  // namespace moe
