// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "emulated/tested_backend.h"
#include "kernels/cuda/grouped_products.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

struct Experts {
  std::vector<std::int64_t> rows;  // offsets
  std::int64_t neurons, width;     // of each
};

std::vector<std::int64_t> equal_offsets(std::size_t experts, std::int64_t each) {
  std::vector<std::int64_t> offsets(experts + 1);
  for (std::size_t e = 0; e <= experts; ++e) offsets[e] = std::int64_t(e) * each;
  return offsets;
}

// What the kernel computes is held against the CPU's loop over experts.
void expect_products(const Experts& experts, int beta, int processors) {
  SCOPED_TRACE(str("rows ", join(experts.rows, ","), " neurons ", experts.neurons, " width ",
                   experts.width, " beta ", beta, " processors ", processors));
  const std::vector<std::int64_t> neurons = equal_offsets(experts.rows.size() - 1, experts.neurons);
  const ExpertGroups groups{experts.rows, neurons};
  const auto kernel = tested_hopper_products(processors);
  if (!kernel) GTEST_SKIP() << "not a device of compute capability 9.0";
  ASSERT_TRUE(kernel->serves(DType::bf16, experts.width, groups));
  const Shape rows = {experts.rows.back(), experts.width};
  const Shape weights = {neurons.back(), experts.width};
  const Shape hidden = {groups.hidden_size()};
  const auto start = [&](const Shape& shape, DType dtype) {
    return beta == 0 ? poisoned(shape, dtype) : random_tensor(shape, dtype, 9);
  };
  const Tensor x = random_tensor(rows, DType::bf16, 1), w = random_tensor(weights, DType::bf16, 2);
  const Tensor h = random_tensor(hidden, DType::bf16, 3);
  const std::vector<Tensor> before = {poisoned(hidden, DType::bf16), start(rows, DType::bf16),
                                      start(weights, DType::f32)};
  std::vector<Tensor> want, first;
  for (const Tensor& t : before) want.push_back(t.clone());
  cpu_backend().grouped_gemm_up(want[0], x, w, groups);
  cpu_backend().grouped_gemm_down(want[1], h, w, groups, beta);
  cpu_backend().grouped_gemm_weight(want[2], h, x, groups, beta);
  const auto there = [](const Tensor& t) { return t.to(tested_device()); };
  in_every_order([&] {
    std::vector<Tensor> got;
    for (const Tensor& t : before) got.push_back(there(t.clone()));
    kernel->up(got[0], there(x), there(w), groups);
    kernel->down(got[1], there(h), there(w), groups, beta);
    kernel->weight(got[2], there(h), there(x), groups, beta);
    for (Tensor& t : got) t = t.to(Device::cpu);
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_TRUE(near(got[i], to_doubles(want[i]), i < 2 ? 4e-3 : 2e-6)) << "output " << i;
      if (!first.empty()) {
        EXPECT_TRUE(same_bits(got[i], first[i])) << "output " << i << " in another order";
      }
    }
    first = got;
  });
}

TEST(HopperGroupedProducts, AgreeForUnevenAndEmptyExperts) {
  expect_products({{0, 5, 5, 75, 76}, 72, 64}, 0, 2);
  expect_products({{0, 5, 5, 75, 76}, 72, 64}, 1, 2);
}

TEST(HopperGroupedProducts, AgreeOverSeveralTilesAndTurnsOfTheRing) {
  expect_products({{0, 131, 133, 430}, 136, 328}, 0, 3);  // 6 depths in 4 buffers
  expect_products({{0, 131, 133, 430}, 136, 328}, 1, 1);
  expect_products({{0, 64, 192}, 344, 72}, 0, 2);  // two tiles of 176 neurons
}

TEST(HopperGroupedProducts, OfNoRowsAreZerosOrWhatWasThere) {
  expect_products({{0, 0, 0}, 64, 64}, 0, 2);
  expect_products({{0, 0, 0}, 64, 64}, 1, 2);
  expect_products({{0, 0, 9}, 64, 64}, 0, 2);
}

TEST(HopperGroupedProducts, ServeWhatTheCopyEngineTakes) {
  const auto kernel = tested_hopper_products(1);
  if (!kernel) GTEST_SKIP() << "not a device of compute capability 9.0";
  const std::vector<std::int64_t> rows = {0, 4, 8}, even = {0, 64, 128}, uneven = {0, 64, 136},
                                  few = {0, 32, 64}, odd = {0, 68, 136};
  EXPECT_TRUE(kernel->serves(DType::bf16, 64, {rows, even}));
  EXPECT_FALSE(kernel->serves(DType::f32, 64, {rows, even}));
  EXPECT_FALSE(kernel->serves(DType::bf16, 68, {rows, even}));
  EXPECT_FALSE(kernel->serves(DType::bf16, 64, {rows, uneven}));
  EXPECT_FALSE(kernel->serves(DType::bf16, 64, {rows, few}));
  EXPECT_FALSE(kernel->serves(DType::bf16, 64, {rows, odd}));
}

}  // namespace
}  // namespace moe
