// SPDX-License-Identifier: Apache-2.0
#include "kernels/backend.h"

namespace moe {

Backend& cuda_backend() { throw Error("built without CUDA: configure with `cmake --preset cuda`"); }

}  // namespace moe
