// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.h"

namespace moe {

Backend& cpu_backend() {
  static CpuBackend backend;
  return backend;
}

}  // namespace moe
