// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe::test {
namespace {

// Two ways to compute the same in the type's accumulator, rounded to the type.
double allowed(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 1e-13;
    case DType::f32:
      return 5e-7;
    case DType::bf16:
      return 1e-3;  // few elements round to the other side
    default:
      return 0;
  }
}

// With bytes of their own: Tensor::to() shares them where the tensor is there already.
std::vector<Tensor> moved(const std::vector<Tensor>& tensors, Device device) {
  std::vector<Tensor> copies;
  for (const Tensor& t : tensors) copies.push_back(t.defined() ? t.clone().to(device) : Tensor());
  return copies;
}

}  // namespace

void expect_agreement(const KernelCall& call, const std::vector<Tensor>& out,
                      const std::vector<Tensor>& in, double slack) {
  const PoisonedMemory poisoned;
  std::vector<Tensor> expected = moved(out, Device::cpu);
  call(cpu_backend(), expected, in);
  std::vector<Tensor> before;
  in_every_order([&] {
    std::vector<Tensor> got = moved(out, tested_device());
    call(tested_backend(), got, moved(in, tested_device()));
    got = moved(got, Device::cpu);
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (!got[i].defined()) continue;
      EXPECT_TRUE(near(got[i], to_doubles(expected[i]), slack * allowed(got[i].dtype())))
          << "output " << i;
      if (!before.empty()) {
        EXPECT_TRUE(same_bits(got[i], before[i])) << "output " << i << " in another thread order";
      }
    }
    before = got;
  });
}

}  // namespace moe::test
