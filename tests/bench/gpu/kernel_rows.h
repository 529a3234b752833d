// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "expert_loads.h"

namespace moe {

/// One kernel of the device at the size of a training step, and what it cannot do without.
struct KernelRow {
  std::string name;
  double bytes = 0;  // each tensor that it reads or writes, once
  double flops = 0;  // of products alone
  std::function<void()> run;
};

/// Calls `show` for every kernel of the backend, a family's tensors at a time: 16384 tokens of
/// 4096, bf16, 16 experts of 688, 4 a token. `trace`: loads for grouped products besides, or empty.
void each_kernel(const ExpertLoads& trace, const std::function<void(const KernelRow&)>& show);

}  // namespace moe
