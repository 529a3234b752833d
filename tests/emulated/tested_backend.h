// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/grouped_products.h"

/// The CUDA kernels under test, and where their tensors lie. Tests make tensors on the CPU and use
/// `.to(tested_device())`, so that the same test runs where the kernels do.
namespace moe::test {

Backend& tested_backend();
Device tested_device();
/// The kernel for Hopper, on that many processors; null where the device is another.
std::unique_ptr<GroupedProducts> tested_hopper_products(int processors);

/// Calls `body` once for every order of threads that can be chosen.
void in_every_order(const std::function<void()>& body);

/// A call of one method or several: fills `out`, reads `in`; what it updates is in `out` too.
using KernelCall =
    std::function<void(Backend&, std::vector<Tensor>& out, const std::vector<Tensor>& in)>;

/// Runs `call` on the CPU's backend and, in every order of threads, on the tested one. `out` is
/// what the outputs hold before. Float results must be near the CPU's (relative_error(), within
/// `slack` times what their type allows), integers equal, and the bits the same in every order.
void expect_agreement(const KernelCall& call, const std::vector<Tensor>& out,
                      const std::vector<Tensor>& in, double slack = 1);

}  // namespace moe::test
