// SPDX-License-Identifier: Apache-2.0
#include "core/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

namespace moe {
namespace {

TEST(Tensor, CopiesShareBytesAndClonesDoNot) {
  const Tensor a = Tensor::of<float>({2, 2}, {1, 2, 3, 4});
  const Tensor shared = a, copy = a.clone();
  a.data<float>()[0] = 9;
  EXPECT_EQ(shared.data<float>()[0], 9);
  EXPECT_EQ(copy.data<float>()[0], 1);
}

TEST(Tensor, SlicesRowsOfTheSameBytes) {
  const Tensor a = Tensor::of<std::int32_t>({3, 2}, {0, 1, 2, 3, 4, 5});
  const Tensor rows = a.slice(1, 2);
  EXPECT_EQ(rows.shape(), (Shape{2, 2}));
  EXPECT_EQ(rows.data<std::int32_t>()[0], 2);
  EXPECT_EQ(a.slice(3, 0).size(), 0);
  EXPECT_THROW(a.slice(2, 2), Error);
}

TEST(Tensor, RefusesAWrongTypeOrShape) {
  const Tensor a = Tensor::of<float>({2}, {1, 2});
  EXPECT_THROW(a.data<double>(), Error);
  EXPECT_THROW(a.view({3}), Error);
  EXPECT_THROW(Tensor::of<float>({3}, {1, 2}), Error);
}

TEST(Tensor, OutlivesTheTensorItViews) {
  Tensor row;
  {
    const Tensor a = Tensor::of<double>({2, 1}, {1, 2});
    row = a.slice(1, 1);
  }
  EXPECT_EQ(*row.data<double>(), 2);
}

TEST(Bf16, RoundsToNearestTiesToEvenAndKeepsNan) {
  EXPECT_EQ(float(bf16(1.0f)), 1.0f);
  EXPECT_EQ(float(bf16(1.0f + 1.0f / 256)), 1.0f);              // tie: to even
  EXPECT_EQ(float(bf16(1.0f + 3.0f / 256)), 1.0f + 1.0f / 64);  // tie: up to even
  EXPECT_EQ(float(bf16(std::numeric_limits<float>::infinity())),
            std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(float(bf16(std::nanf("")))));
  EXPECT_EQ(float(f16(0.333251953125f)), 0.333251953125f);
}

#if !defined(__SANITIZE_ADDRESS__)
TEST(Arena, GivesTheSameBlockAgainAndAsksTheSystemNoMore) {
  const std::byte* first = Tensor::empty({1000}, DType::f32).bytes();
  const std::int64_t before = memory_account().system_allocations;
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Tensor::empty({1000}, DType::f32).bytes(), first);
  EXPECT_EQ(memory_account().system_allocations, before);
}

TEST(Arena, GivesCachedBlocksBackAndKeepsThoseInUse) {
  const Tensor held = Tensor::zeros({1 << 20}, DType::f32);
  (void)Tensor::empty({1 << 21}, DType::f32);
  release_cached_memory();
  EXPECT_EQ(memory_account().reserved, memory_account().live_total);
  EXPECT_EQ(held.data<float>()[(1 << 20) - 1], 0);
  const std::int64_t before = memory_account().system_allocations;
  (void)Tensor::empty({1 << 21}, DType::f32);
  EXPECT_EQ(memory_account().system_allocations, before + 1);
}
#endif

TEST(Arena, CountsByKindAndRemembersThePeak) {
  const MemoryAccount before = memory_account();
  {
    MemoryScope scope(MemoryKind::weights);
    const Tensor t = Tensor::empty({1 << 20}, DType::f32);
    EXPECT_EQ(memory_account().live[0] - before.live[0], 4 << 20);
  }
  EXPECT_EQ(memory_account().live[0], before.live[0]);
  EXPECT_GE(memory_account().peak[0], before.live[0] + (4 << 20));
}

TEST(Arena, PoisonsNewMemoryWhenAsked) {
  poison_new_memory(true);
  const Tensor t = Tensor::empty({7}, DType::f32);
  poison_new_memory(false);
  for (int i = 0; i < 7; ++i) EXPECT_TRUE(std::isnan(t.data<float>()[i]));
}

TEST(Arena, ServesSeveralThreads) {
  std::vector<std::jthread> threads;
  for (int n = 0; n < 4; ++n)
    threads.emplace_back([n] {
      for (int i = 0; i < 200; ++i) {
        const Tensor t = Tensor::empty({100 + 50 * (i % 5)}, DType::f32);
        std::memset(t.bytes(), n, t.nbytes());
        for (std::size_t b = 0; b < t.nbytes(); ++b) ASSERT_EQ(t.bytes()[b], std::byte(n));
      }
    });
}

}  // namespace
}  // namespace moe
