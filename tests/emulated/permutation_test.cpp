// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/rng.h"
#include "emulated/tested_backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

/// A permutation of the experts.
Tensor some_order(std::int64_t experts) {
  Tensor order = Tensor::empty({experts}, DType::i32);
  const auto p = permutation(experts, Philox(1, RandomPurpose::test));
  for (std::int64_t e = 0; e < experts; ++e)
    order.data<std::int32_t>()[e] = std::int32_t(p[std::size_t(e)]);
  return order;
}

void expect_same_sort(const Tensor& indices, std::int64_t experts) {
  SCOPED_TRACE(str(join(indices.shape()), " to ", experts));
  const Tensor counts = poisoned({experts}, DType::i64),
               rows = poisoned(indices.shape(), DType::i32),
               slots = poisoned({indices.size()}, DType::i32);
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) {
        b.sort_by_expert(out[0], out[1], out[2], in[0], {});
        b.sort_by_expert(out[3], out[4], out[5], in[0], in[1]);
      },
      {counts, rows, slots, counts, rows, slots}, {indices, some_order(experts)});
}

TEST(CudaSortByExpert, AgreesOnAnyNumberOfPairsAndExperts) {
  for (const std::int64_t tokens : {1, 3, 31, 33, 255, 257, 1000, 4103})
    for (const std::int64_t experts : {1, 7, 33, 257})
      expect_same_sort(random_indices({tokens, 2}, -1, std::int32_t(experts - 1), 1), experts);
}
TEST(CudaSortByExpert, AsManyExpertsAsAreAllowed) {
  expect_same_sort(random_indices({2000, 3}, -1, 1023, 1), 1024);
}
TEST(CudaSortByExpert, MoreChunksThanLanes) {
  expect_same_sort(random_indices({40000, 1}, -1, 2, 1), 3);
}
TEST(CudaSortByExpert, ExpertsWithoutTokens) {
  expect_same_sort(random_indices({500, 2}, 2, 4, 1), 9);
}
TEST(CudaSortByExpert, NoTokens) { expect_same_sort(Tensor::empty({0, 2}, DType::i32), 4); }
TEST(CudaSortByExpert, NoValidPair) { expect_same_sort(random_indices({50, 2}, -1, -1, 1), 4); }
TEST(CudaSortByExpert, AllToOneExpert) { expect_same_sort(random_indices({1500, 2}, 2, 2, 1), 4); }

TEST(CudaGatherRows, AgreesForEveryTypeAndWidth) {
  for (const auto& [dtype, tolerance] : kPrecisions)
    for (const std::int64_t cols : {1, 3, 8, 31, 33, 256, 2500}) {
      SCOPED_TRACE(str(name(dtype), " ", cols));
      for (const std::int64_t divisor : {1, 3})
        expect_agreement(
            [divisor](Backend& b, auto& out, const auto& in) {
              b.gather_rows(out[0], in[0], in[1], divisor);
            },
            {poisoned({40, cols}, dtype)},
            {random_tensor({10, cols}, dtype, 1),
             random_indices({40}, -2, std::int32_t(10 * divisor - 1), 2)},
            0);
    }
}

TEST(CudaGatherRows, MoreRowsThanBlocksAgree) {
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) { b.gather_rows(out[0], in[0], in[1], 2); },
      {poisoned({4100, 9}, DType::bf16)},
      {random_tensor({100, 9}, DType::bf16, 1), random_indices({4100}, -1, 199, 2)}, 0);
}

TEST(CudaGatherRows, BytesNoRowsAndUnalignedRowsAgree) {
  const Tensor bytes = Tensor::of<std::uint8_t>({2, 3}, {1, 2, 3, 4, 5, 6});
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) {
        b.gather_rows(out[0], in[0], in[2], 1);
        b.gather_rows(out[1], in[1].slice(0, 0), Tensor::empty({0}, DType::i32, in[0].device()), 1);
        Tensor y = out[2].view({100}).slice(1, 96).view({3, 32});
        b.gather_rows(y, in[1].view({100}).slice(3, 64).view({2, 32}), in[2], 1);
      },
      {poisoned({3, 3}, DType::u8), Tensor::empty({0, 10}, DType::f32),
       random_tensor({10, 10}, DType::f32, 2)},
      {bytes, random_tensor({10, 10}, DType::f32, 1), Tensor::of<std::int32_t>({3}, {1, -1, 0})});
}

void expect_same_combine(const Tensor& indices, std::int64_t experts, std::int64_t cols) {
  Tensor counts = Tensor::empty({experts}, DType::i64), slot_to_row = empty_like(indices),
         row_to_slot = Tensor::empty({indices.size()}, DType::i32);
  cpu_backend().sort_by_expert(counts, slot_to_row, row_to_slot, indices, {});
  std::int64_t placed = 0;
  for (const double c : to_doubles(counts)) placed += std::int64_t(c);
  for (const auto& [dtype, tolerance] : kPrecisions) {
    SCOPED_TRACE(str(name(dtype), " ", cols));
    const DType acc = accumulator(dtype);
    const Tensor y = poisoned({indices.rows(), cols}, dtype),
                 drows = poisoned({placed, cols}, dtype), dw = poisoned(indices.shape(), acc);
    expect_agreement(
        [](Backend& b, auto& out, const auto& in) {
          b.combine_forward(out[0], in[0], in[1], in[2], 3.5);
          b.combine_forward(out[1], in[0], {}, in[2], 1);
          b.combine_backward(out[2], out[3], in[3], in[0], in[1], in[2], 3.5);
          b.combine_backward(out[4], out[5], in[3], in[0], {}, in[2], 1);
        },
        {y, y, drows, dw, drows, dw},
        {random_tensor({placed, cols}, dtype, 1), random_tensor(indices.shape(), acc, 3),
         slot_to_row, random_tensor({indices.rows(), cols}, dtype, 2)},
        2);
  }
}

TEST(CudaCombine, AgreesOnRowsOfAnyLength) {
  for (const std::int64_t cols : {1, 3, 31, 32, 255, 257, 1000, 4096})
    expect_same_combine(random_indices({20, 3}, -1, 4, 1), 6, cols);
}
TEST(CudaCombine, MoreTokensThanBlocksAgree) {
  expect_same_combine(random_indices({4100, 1}, -1, 4, 1), 5, 9);
}
TEST(CudaCombine, NoTokens) { expect_same_combine(Tensor::empty({0, 2}, DType::i32), 4, 8); }
TEST(CudaCombine, OneToken) { expect_same_combine(Tensor::of<std::int32_t>({1, 2}, {3, 0}), 4, 8); }
TEST(CudaCombine, TokensWithoutAnyExpertGiveZeros) {
  expect_same_combine(random_indices({5, 2}, -1, -1, 1), 4, 20);
}

TEST(CudaCombine, RowsMayBeginAnywhere) {
  expect_agreement(
      [](Backend& b, auto& out, const auto& in) {
        const auto part = [](const Tensor& t) { return t.view({80}).slice(1, 64).view({2, 32}); };
        Tensor y = part(out[0]), drows = part(out[1]);
        b.combine_forward(y, part(in[0]), in[1], in[2], 2);
        b.combine_backward(drows, out[2], part(in[3]), part(in[0]), in[1], in[2], 2);
      },
      {random_tensor({80}, DType::bf16, 1), random_tensor({80}, DType::bf16, 2),
       poisoned({2, 1}, DType::f32)},
      {random_tensor({80}, DType::bf16, 3), random_tensor({2, 1}, DType::f32, 4),
       Tensor::of<std::int32_t>({2, 1}, {1, 0}), random_tensor({80}, DType::bf16, 5)});
}

}  // namespace
}  // namespace moe
