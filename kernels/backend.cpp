// SPDX-License-Identifier: Apache-2.0
#include "kernels/backend.h"

namespace moe {

Backend& backend(Device device) { return device == Device::cpu ? cpu_backend() : cuda_backend(); }

}  // namespace moe
