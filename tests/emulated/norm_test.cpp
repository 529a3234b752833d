// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

void expect_norms_agree(const Shape& shape, DType type) {
  SCOPED_TRACE(str(join(shape), " ", name(type)));
  const DType acc = accumulator(type);
  const Tensor x = random_tensor(shape, type, 1, 2), dy = random_tensor(shape, type, 2),
               w = random_tensor({shape[1]}, type, 3);
  Tensor y = empty_like(x), rstd = Tensor::empty({shape[0]}, acc);
  cpu_backend().rmsnorm_forward(y, rstd, x, w, 1e-5);
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) {
        b.rmsnorm_forward(out[0], out[1], in[0], in[1], 1e-5);
        b.rmsnorm_backward(out[2], out[3], in[2], in[0], in[1], in[3]);
      },
      {poisoned(shape, type), poisoned({shape[0]}, acc), poisoned(shape, type),
       poisoned({shape[1]}, acc)},
      {x, w, dy, rstd}, 3);
}

TEST(CudaRmsNorm, Agrees) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const Shape& shape : {Shape{1, 2}, Shape{3, 7}, Shape{31, 33}, Shape{5, 255},
                               Shape{2, 257}, Shape{7, 1000}, Shape{300, 64}, Shape{2, 4096}})
      expect_norms_agree(shape, type);
}

TEST(CudaRmsNorm, WideRowsDoNotFitSharedMemory) {
  expect_norms_agree({3, 12800}, DType::f32);
  expect_norms_agree({3, 6400}, DType::f64);
}

TEST(CudaRmsNorm, NoRowsGiveAZeroWeightGradient) {
  Tensor dx = Tensor::empty({0, 6}, DType::f32).to(tested_device());
  Tensor dw = poisoned({6}, DType::f32).to(tested_device());
  const Tensor w = random_tensor({6}, DType::f32, 1).to(tested_device());
  tested_backend().rmsnorm_backward(dx, dw, dx, dx, w, dx);
  EXPECT_TRUE(near(dw.to(Device::cpu), std::vector<double>(6, 0.0), 0));
}

}  // namespace
}  // namespace moe
