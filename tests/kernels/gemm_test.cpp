// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "kernels/backend.h"
#include "support/reference_gemm.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using test::OpenMpThreads;
using test::poisoned;
using test::random_tensor;
using test::relative_error;
using test::same_bits;
using test::to_doubles;

struct Types {
  DType factor, result;
  double tolerance;
};
const std::vector<Types> kTypes = {{DType::f64, DType::f64, 1e-14},
                                   {DType::f32, DType::f32, 1e-6},
                                   {DType::bf16, DType::f32, 1e-6},
                                   {DType::bf16, DType::bf16, 4e-3}};

struct Size {
  std::int64_t m, n, k;
};

// c = op(a) op(b) + beta c against the reference.
void expect_product(const Types& types, const Size& size, bool transpose_a, bool transpose_b,
                    int beta) {
  SCOPED_TRACE(str(name(types.factor), " -> ", name(types.result), ", ", size.m, "x", size.n, "x",
                   size.k, transpose_a ? ", a^T" : "", transpose_b ? ", b^T" : "", ", beta ",
                   beta));
  const auto [m, n, k] = size;
  const Tensor a = random_tensor(transpose_a ? Shape{k, m} : Shape{m, k}, types.factor, 1);
  const Tensor b = random_tensor(transpose_b ? Shape{n, k} : Shape{k, n}, types.factor, 2);
  Tensor c = beta == 0 ? poisoned({m, n}, types.result) : random_tensor({m, n}, types.result, 3);
  const auto want = reference::product(to_doubles(a), transpose_a, to_doubles(b), transpose_b, m, n,
                                       k, beta == 0 ? std::vector<double>{} : to_doubles(c));
  cpu_backend().gemm(c, a, transpose_a, b, transpose_b, beta);
  EXPECT_LE(relative_error(c, want), types.tolerance);
}

TEST(Gemm, EqualsThePlainLoopsForAllTypesTransposesAndSizes) {
  const std::vector<Size> sizes = {{1, 1, 1},    {3, 5, 7},     {4, 4, 4},     {16, 128, 64},
                                   {65, 33, 64}, {1, 200, 130}, {130, 1, 77},  {67, 131, 129},
                                   {128, 64, 1}, {200, 96, 48}, {63, 257, 190}};
  for (const Types& types : kTypes)
    for (const Size& size : sizes)
      for (const bool transpose_a : {false, true})
        for (const bool transpose_b : {false, true})
          for (const int beta : {0, 1}) expect_product(types, size, transpose_a, transpose_b, beta);
}

TEST(Gemm, OfFewRowsDoesNotDependOnThreads) {
  for (const Types& types : kTypes)
    for (const std::int64_t m : {1, 2, 4, 5})
      for (const bool transpose_b : {false, true}) {
        const Size size = {m, 2100, 300};  // several columns for each thread, and a rest
        for (const int beta : {0, 1}) expect_product(types, size, false, transpose_b, beta);
        if (m > 4) continue;  // oneDNN's
        const Tensor a = random_tensor({m, 300}, types.factor, 1);
        const Tensor b =
            random_tensor(transpose_b ? Shape{2100, 300} : Shape{300, 2100}, types.factor, 2);
        Tensor one = poisoned({m, 2100}, types.result), three = one.clone();
        {
          const OpenMpThreads threads(1);
          cpu_backend().gemm(one, a, false, b, transpose_b, 0);
        }
        const OpenMpThreads threads(3);
        cpu_backend().gemm(three, a, false, b, transpose_b, 0);
        EXPECT_TRUE(same_bits(one, three)) << name(types.factor) << " " << m;
      }
}

TEST(Gemm, LongSumsAreCutIntoPanels) {
  expect_product(kTypes[0], {290, 20, 520}, true, false, 1);
  expect_product(kTypes[0], {20, 290, 520}, false, true, 1);
  expect_product({DType::bf16, DType::f32, 1e-5}, {70, 66, 17000}, true, false, 1);
  expect_product({DType::bf16, DType::bf16, 4e-3}, {70, 66, 17000}, false, true, 1);
}

TEST(Gemm, AnEmptySumIsZeroOrWhatWasThere) {
  for (const Types& types : kTypes)
    for (const int beta : {0, 1}) expect_product(types, {5, 9, 0}, false, true, beta);
}

TEST(Gemm, NothingHappensWithoutRowsOrColumns) {
  for (const Types& types : kTypes) {
    expect_product(types, {0, 9, 4}, false, false, 0);
    expect_product(types, {9, 0, 4}, false, true, 1);
  }
}

TEST(Gemm, RepeatsToTheBit) {
  for (const Types& types : kTypes) {
    const Tensor a = random_tensor({150, 300}, types.factor, 1);
    const Tensor b = random_tensor({300, 170}, types.factor, 2);
    Tensor first = poisoned({150, 170}, types.result), second = poisoned({150, 170}, types.result);
    cpu_backend().gemm(first, a, false, b, false, 0);
    cpu_backend().gemm(second, a, false, b, false, 0);
    EXPECT_TRUE(same_bits(first, second)) << name(types.factor);
  }
}

TEST(Gemm, ProductsOfNanLeaveNothingBehind) {
  for (const Types& types : kTypes)
    for (const bool transpose_a : {false, true}) {
      Tensor c = poisoned({63, 63}, types.result);
      const Tensor nan = poisoned({63, 63}, types.factor);
      cpu_backend().gemm(c, nan, transpose_a, nan, false, 0);
      expect_product(types, {63, 63, 5}, transpose_a, false, 0);
      expect_product(types, {5, 63, 63}, transpose_a, false, 1);
    }
}

TEST(Gemm, InF64EveryElementIsAnAscendingSumWhateverTheShapeAndTheThreads) {
  const std::int64_t m = 300, n = 330, k = 270;
  const Tensor a = random_tensor({m, k}, DType::f64, 1), b = random_tensor({n, k}, DType::f64, 2);
  Tensor c = poisoned({m, n}, DType::f64);
  cpu_backend().gemm(c, a, false, b, true, 0);
  for (const int threads : {1, 3}) {
    const OpenMpThreads scope(threads);
    for (const std::int64_t row : {0, 1, 299}) {
      Tensor alone = poisoned({1, n}, DType::f64);
      cpu_backend().gemm(alone, a.slice(row, 1), false, b, true, 0);
      EXPECT_TRUE(same_bits(alone, c.slice(row, 1))) << "row " << row << ", " << threads;
    }
    Tensor again = poisoned({m, n}, DType::f64);
    cpu_backend().gemm(again, a, false, b, true, 0);
    EXPECT_TRUE(same_bits(again, c)) << threads;
  }
}

TEST(Gemm, InF64AccumulatingPartsOfASumIsTheWholeSum) {
  const std::int64_t m = 9, n = 21, k = 600;
  const Tensor a = random_tensor({k, m}, DType::f64, 1), b = random_tensor({k, n}, DType::f64, 2);
  Tensor whole = poisoned({m, n}, DType::f64), parts = poisoned({m, n}, DType::f64);
  cpu_backend().gemm(whole, a, true, b, false, 0);
  cpu_backend().gemm(parts, a.slice(0, 337), true, b.slice(0, 337), false, 0);
  cpu_backend().gemm(parts, a.slice(337, 263), true, b.slice(337, 263), false, 1);
  EXPECT_TRUE(same_bits(whole, parts));
}

TEST(Gemm, RanksAsThreadsOfOneProcessDoNotDisturbEachOther) {
  for (const Types& types : kTypes) {
    const Tensor a = random_tensor({96, 160}, types.factor, 1);
    const Tensor b = random_tensor({72, 160}, types.factor, 2);
    Tensor want = poisoned({96, 72}, types.result);
    cpu_backend().gemm(want, a, false, b, true, 0);
    std::vector<int> wrong(3);
    std::vector<std::thread> ranks;
    for (std::size_t rank = 0; rank < wrong.size(); ++rank)
      ranks.emplace_back([&, rank] {
        for (int i = 0; i < 20; ++i) {
          Tensor c = poisoned({96, 72}, types.result);
          cpu_backend().gemm(c, a, false, b, true, 0);
          wrong[rank] += !same_bits(c, want);
        }
      });
    for (std::thread& rank : ranks) rank.join();
    EXPECT_EQ(wrong, std::vector<int>(3, 0)) << name(types.factor);
  }
}

}  // namespace
}  // namespace moe
