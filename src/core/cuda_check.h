// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "core/error.h"

/// Throws Error with CUDA's own words when a runtime call fails.
#define CUDA_CHECK(expr)                                                                     \
  do {                                                                                       \
    const cudaError_t status_ = (expr);                                                      \
    if (status_ != cudaSuccess)                                                              \
      ::moe::fail_check(__FILE__, __LINE__, #expr, ::moe::str(cudaGetErrorString(status_))); \
  } while (0)
