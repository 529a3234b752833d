// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

struct cudnnContext;  // cudnnHandle_t points to it
struct CUstream_st;   // cudaStream_t points to it

namespace moe {

/// The device that cuDNN makes kernels for: that of a handle or, where that is null, one that is
/// only described, whose kernels can be made and asked but not run.
struct CudnnTarget {
  cudnnContext* handle = nullptr;
  std::string description;  // cuDNN's JSON of device properties
  int capability = 0;       // compute capability: 90 is 9.0
};

/// This process's device; cuDNN's kernels run on `stream`. Lives as long as the process. Throws
/// Error when the library that was loaded does not fit or finds no device.
CudnnTarget cudnn_target(CUstream_st* stream);

/// What is wrong with the cuDNN that was loaded (cudnnGetVersion, cudnnGetCudartVersion) for a
/// program built as this one, in one line; empty when nothing is.
std::string cudnn_mismatch(std::size_t version, std::size_t cudart_version);

}  // namespace moe
