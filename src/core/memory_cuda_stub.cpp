// SPDX-License-Identifier: Apache-2.0
#include "core/error.h"
#include "core/memory.h"

namespace moe {

bool cuda_available() { return false; }

namespace cuda {

std::shared_ptr<std::byte> allocate(std::size_t) {
  throw Error("built without CUDA: configure with `cmake --preset cuda`");
}

void copy_bytes(void*, const void*, std::size_t) {
  throw Error("built without CUDA: configure with `cmake --preset cuda`");
}

}  // namespace cuda
}  // namespace moe
