// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

TEST(Embedding, RowsOfTheTableAndZerosForNegativeIds) {
  const PoisonedMemory poisoned;
  for (const auto& [dtype, tolerance] : kPrecisions) {
    const Tensor table = random_tensor({11, 6}, dtype, 1);
    const Tensor ids = Tensor::of<std::int32_t>({5}, {3, -1, 10, 0, 3});
    Tensor y = Tensor::empty({5, 6}, dtype);
    backend(Device::cpu).embedding_forward(y, table, ids);
    for (std::int64_t i = 0; i < 5; ++i) {
      const std::int32_t id = ids.data<std::int32_t>()[i];
      const Tensor expected = id < 0 ? Tensor::zeros({1, 6}, dtype) : table.slice(id, 1);
      EXPECT_TRUE(same_bits(y.slice(i, 1), expected)) << i;
    }
  }
}

void expect_gradient(const Tensor& ids, std::int64_t vocabulary, std::int64_t cols) {
  const PoisonedMemory poisoned;
  for (const auto& [dtype, tolerance] : kPrecisions) {
    const Tensor dy = random_tensor({ids.size(), cols}, dtype, 2);
    const auto g = to_doubles(dy);
    std::vector<double> expected(std::size_t(vocabulary * cols));
    for (std::int64_t i = 0; i < ids.size(); ++i) {
      const std::int64_t id = ids.data<std::int32_t>()[i];
      for (std::int64_t j = 0; j < cols && id >= 0; ++j)
        expected[std::size_t(id * cols + j)] += g[std::size_t(i * cols + j)];
    }
    Tensor dtable = Tensor::empty({vocabulary, cols}, accumulator(dtype));
    backend(Device::cpu).embedding_backward(dtable, dy, ids);
    EXPECT_TRUE(near(dtable, expected, std::min(tolerance, 5e-7)));
  }
}

TEST(Embedding, BackwardAddsTheRowsOfEachId) {
  expect_gradient(random_indices({700}, -1, 49, 5), 60, 130);  // 50..59 never occur
}
TEST(Embedding, BackwardWithOneIdOnly) { expect_gradient(random_indices({900}, 7, 7, 5), 9, 600); }
TEST(Embedding, BackwardWithoutAnyValidId) {
  expect_gradient(Tensor::of<std::int32_t>({2}, {-1, -1}), 5, 4);
  expect_gradient(Tensor::empty({0}, DType::i32), 5, 4);
}

TEST(Embedding, GradientMatchesCentralDifferences) {
  const Tensor table = random_tensor({5, 3}, DType::f64, 1),
               dy = random_tensor({6, 3}, DType::f64, 2);
  const Tensor ids = Tensor::of<std::int32_t>({6}, {4, 1, -1, 1, 0, 1});
  Tensor y = empty_like(dy), dtable = empty_like(table);
  backend(Device::cpu).embedding_backward(dtable, dy, ids);
  EXPECT_TRUE(near(dtable,
                   central_differences(table,
                                       [&] {
                                         backend(Device::cpu).embedding_forward(y, table, ids);
                                         return dot(y, dy);
                                       }),
                   1e-9));
}

TEST(Embedding, SameBitsOnAnyNumberOfThreads) {
  const Tensor dy = random_tensor({3000, 64}, DType::f32, 1);
  const Tensor ids = random_indices({3000}, 0, 20, 2);
  expect_same_bits_on_any_threads([&] {
    Tensor dtable = Tensor::empty({1000, 64}, DType::f32);
    backend(Device::cpu).embedding_backward(dtable, dy, ids);
    return std::vector<Tensor>{dtable};
  });
}

}  // namespace
}  // namespace moe
