// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/cuda_device.h"
#include "core/error.h"
#include "emulated/tested_backend.h"

namespace moe::test {

Backend& tested_backend() { return backend(Device::cuda); }

Device tested_device() { return Device::cuda; }

std::unique_ptr<GroupedProducts> tested_hopper_products(int processors) {
  if (cuda::compute_capability() != 90) return nullptr;
  return hopper_grouped_products(cuda::compute_stream(), processors);
}

/// A device chooses its orders itself: other bits in another run are a race.
void in_every_order(const std::function<void()>& body) {
  for (const int run : {1, 2}) {
    SCOPED_TRACE(str("run ", run));
    body();
  }
}

}  // namespace moe::test
