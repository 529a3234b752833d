// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

Backend& cpu() { return backend(Device::cpu); }

struct Sorted {
  Tensor counts, slot_to_row, row_to_slot;
};
Sorted sort(const Tensor& indices, std::int64_t experts, const Tensor& order = {}) {
  Sorted s{Tensor::empty({experts}, DType::i64), empty_like(indices),
           Tensor::empty({indices.size()}, DType::i32)};
  cpu().sort_by_expert(s.counts, s.slot_to_row, s.row_to_slot, indices, order);
  return s;
}

void expect_stable_sort(const Tensor& indices, std::int64_t experts) {
  const PoisonedMemory poisoned;
  const Sorted got = sort(indices, experts);
  std::vector<double> counts(std::size_t(experts), 0.0), rows(std::size_t(indices.size()), -1.0),
      slots;
  for (std::int64_t e = 0; e < experts; ++e) {
    for (std::int64_t s = 0; s < indices.size(); ++s) {
      if (indices.data<std::int32_t>()[s] != e) continue;
      ++counts[std::size_t(e)];
      rows[std::size_t(s)] = double(slots.size());
      slots.push_back(double(s));
    }
  }
  EXPECT_EQ(to_doubles(got.counts), counts);
  EXPECT_EQ(to_doubles(got.slot_to_row), rows);
  EXPECT_EQ(to_doubles(got.row_to_slot.slice(0, std::int64_t(slots.size()))), slots);
}

TEST(SortByExpert, IsStableAndSkipsPairsWithoutExpert) {
  expect_stable_sort(random_indices({500, 3}, -1, 6, 1), 7);
  expect_stable_sort(random_indices({500, 2}, -1, 6, 1), 9);  // two experts without tokens
}
TEST(SortByExpert, NoTokens) { expect_stable_sort(Tensor::empty({0, 2}, DType::i32), 4); }
TEST(SortByExpert, OneToken) { expect_stable_sort(Tensor::of<std::int32_t>({1, 2}, {3, 0}), 4); }
TEST(SortByExpert, AllToOneExpert) { expect_stable_sort(random_indices({50, 1}, 2, 2, 1), 4); }
TEST(SortByExpert, NoValidPair) { expect_stable_sort(random_indices({5, 2}, -1, -1, 1), 4); }
TEST(SortByExpert, OneExpert) { expect_stable_sort(random_indices({5, 1}, 0, 0, 1), 1); }

TEST(SortByExpert, RowsFollowTheOrderOfExperts) {
  const Sorted got = sort(Tensor::of<std::int32_t>({3, 2}, {0, 1, 2, 0, -1, 1}), 3,
                          Tensor::of<std::int32_t>({3}, {2, 0, 1}));
  EXPECT_EQ(to_doubles(got.counts), (std::vector<double>{2, 2, 1}));
  EXPECT_EQ(to_doubles(got.slot_to_row), (std::vector<double>{1, 3, 0, 2, -1, 4}));
  EXPECT_EQ(to_doubles(got.row_to_slot.slice(0, 5)), (std::vector<double>{2, 0, 3, 1, 5}));
}

TEST(GatherRows, DividesTheIndexAndFillsZeros) {
  const PoisonedMemory poisoned;
  for (const auto& [dtype, tolerance] : kPrecisions) {
    const Tensor x = random_tensor({10, 33}, dtype, 1);
    for (const std::int64_t divisor : {1, 3}) {
      const Tensor index = random_indices({40}, -2, std::int32_t(10 * divisor - 1), 2);
      Tensor y = Tensor::empty({40, 33}, dtype);
      cpu().gather_rows(y, x, index, divisor);
      for (std::int64_t i = 0; i < 40; ++i) {
        const std::int32_t from = index.data<std::int32_t>()[i];
        EXPECT_TRUE(same_bits(
            y.slice(i, 1), from < 0 ? Tensor::zeros({1, 33}, dtype) : x.slice(from / divisor, 1)));
      }
    }
  }
}

struct Combined {
  std::vector<double> y, drows, dweights;
};
/// The formulas of kernels/backend.h in double.
Combined reference(const Tensor& dy, const Tensor& rows, const Tensor& weights,
                   const Tensor& slot_to_row, double factor) {
  const auto cols = std::size_t(rows.cols());
  const std::int64_t k = slot_to_row.cols();
  const auto g = to_doubles(dy), x = to_doubles(rows);
  const auto w = weights.defined() ? to_doubles(weights)
                                   : std::vector<double>(std::size_t(slot_to_row.size()), 1.0);
  Combined out{std::vector<double>(g.size()), std::vector<double>(x.size()),
               std::vector<double>(w.size())};
  for (std::int64_t s = 0; s < slot_to_row.size(); ++s) {
    const std::int32_t row = slot_to_row.data<std::int32_t>()[s];
    if (row < 0) continue;
    for (std::size_t j = 0; j < cols; ++j) {
      const std::size_t from = std::size_t(row) * cols + j, to = std::size_t(s / k) * cols + j;
      out.y[to] += factor * w[std::size_t(s)] * x[from];
      out.drows[from] = factor * w[std::size_t(s)] * g[to];
      out.dweights[std::size_t(s)] += factor * g[to] * x[from];
    }
  }
  return out;
}

void expect_combine(const Tensor& indices, std::int64_t experts, std::int64_t cols) {
  const PoisonedMemory poisoned;
  const double factor = 3.5;
  const Sorted sorted = sort(indices, experts);
  std::int64_t placed = 0;
  for (const double c : to_doubles(sorted.counts)) placed += std::int64_t(c);
  for (const auto& [dtype, tolerance] : kPrecisions) {
    const DType acc = accumulator(dtype);
    const Tensor rows = random_tensor({placed, cols}, dtype, 1),
                 dy = random_tensor({indices.rows(), cols}, dtype, 2),
                 w = random_tensor(indices.shape(), acc, 3);
    const Combined expected = reference(dy, rows, w, sorted.slot_to_row, factor);
    Tensor y = empty_like(dy), drows = empty_like(rows), dw = empty_like(w);
    cpu().combine_forward(y, rows, w, sorted.slot_to_row, factor);
    cpu().combine_backward(drows, dw, dy, rows, w, sorted.slot_to_row, factor);
    EXPECT_TRUE(near(y, expected.y, tolerance));
    EXPECT_TRUE(near(drows, expected.drows, tolerance));
    EXPECT_TRUE(near(dw, expected.dweights, std::min(tolerance, 5e-7)));
    cpu().combine_forward(y, rows, {}, sorted.slot_to_row, 1);
    EXPECT_TRUE(near(y, reference(dy, rows, {}, sorted.slot_to_row, 1).y, tolerance));
  }
}

TEST(Combine, MatchesPlainLoops) { expect_combine(random_indices({60, 3}, -1, 4, 1), 6, 1500); }
TEST(Combine, NoTokens) { expect_combine(Tensor::empty({0, 2}, DType::i32), 4, 8); }
TEST(Combine, OneToken) { expect_combine(Tensor::of<std::int32_t>({1, 2}, {3, 0}), 4, 8); }
TEST(Combine, AllToOneExpert) { expect_combine(random_indices({50, 1}, 2, 2, 1), 4, 20); }
TEST(Combine, TokensWithoutAnyExpertGiveZeros) {
  expect_combine(random_indices({5, 2}, -1, -1, 1), 4, 20);
}

TEST(Combine, GradientsMatchCentralDifferences) {
  const Tensor indices = Tensor::of<std::int32_t>({3, 2}, {1, 0, -1, 1, 0, -1});
  const Tensor slot_to_row = sort(indices, 2).slot_to_row;
  const Tensor rows = random_tensor({4, 5}, DType::f64, 1),
               dy = random_tensor({3, 5}, DType::f64, 2), w = random_tensor({3, 2}, DType::f64, 3);
  Tensor y = empty_like(dy), drows = empty_like(rows), dw = empty_like(w);
  cpu().combine_backward(drows, dw, dy, rows, w, slot_to_row, 2);
  const auto loss = [&] {
    cpu().combine_forward(y, rows, w, slot_to_row, 2);
    return dot(y, dy);
  };
  EXPECT_TRUE(near(drows, central_differences(rows, loss), 1e-9));
  EXPECT_TRUE(near(dw, central_differences(w, loss), 1e-9));
}

TEST(Combine, NaNReachesItsTokenOnly) {
  const Tensor slot_to_row = Tensor::of<std::int32_t>({2, 1}, {1, 0});
  const Tensor rows = random_tensor({2, 5}, DType::f32, 1),
               w = random_tensor({2, 1}, DType::f32, 3);
  rows.data<float>()[7] = std::numeric_limits<float>::quiet_NaN();
  Tensor y = empty_like(rows), drows = empty_like(rows), dw = empty_like(w);
  cpu().combine_forward(y, rows, w, slot_to_row, 1);
  cpu().combine_backward(drows, dw, rows, rows, w, slot_to_row, 1);
  EXPECT_TRUE(std::isnan(y.data<float>()[2]));
  EXPECT_FALSE(std::isnan(y.data<float>()[7]));
  EXPECT_TRUE(std::isnan(dw.data<float>()[0]));
}

TEST(Combine, SameBitsOnAnyNumberOfThreads) {
  const Tensor slot_to_row = sort(random_indices({400, 2}, 0, 7, 1), 8).slot_to_row;
  const Tensor rows = random_tensor({800, 300}, DType::f32, 1),
               dy = random_tensor({400, 300}, DType::f32, 2),
               w = random_tensor({400, 2}, DType::f32, 3);
  expect_same_bits_on_any_threads([&] {
    Tensor y = empty_like(dy), drows = empty_like(rows), dw = empty_like(w);
    cpu().combine_forward(y, rows, w, slot_to_row, 2);
    cpu().combine_backward(drows, dw, dy, rows, w, slot_to_row, 2);
    return std::vector<Tensor>{y, drows, dw};
  });
}

}  // namespace
}  // namespace moe
