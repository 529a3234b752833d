// SPDX-License-Identifier: Apache-2.0
#include "core/memory.h"
#include "kernels/backend.h"

namespace moe {

Backend& cuda_backend() {
  MOE_CHECK(cuda_available(), "this machine has no CUDA device");
  throw Error("the CUDA backend has no kernels yet: train on the CPU");
}

}  // namespace moe
