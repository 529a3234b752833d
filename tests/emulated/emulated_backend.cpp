// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "support/cuda_emulator.h"
#include "support/tensor_tools.h"

namespace moe::test {

Backend& tested_backend() {
  static CudaBackend backend(plain_products(nullptr), plain_attention(nullptr));
  return backend;
}

Device tested_device() { return Device::cpu; }

std::unique_ptr<GroupedProducts> tested_hopper_products(int processors) {
  return hopper_grouped_products(nullptr, processors);
}

void in_every_order(const std::function<void()>& body) {
  using emulator::Order;
  for (const Order order : {Order::forward, Order::reverse, Order::shuffled}) {
    SCOPED_TRACE(str("thread order ", int(order)));
    emulator::set_order(order);
    body();
  }
  emulator::set_order(Order::forward);
}

}  // namespace moe::test
