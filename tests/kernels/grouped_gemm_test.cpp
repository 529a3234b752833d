// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <vector>

#include "kernels/backend.h"
#include "support/reference_gemm.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using test::poisoned;
using test::random_tensor;
using test::relative_error;
using test::same_bits;
using test::to_doubles;

struct Types {
  DType type;
  double tolerance;      // of results in `type`
  double acc_tolerance;  // of results in its accumulator
};
const std::vector<Types> kTypes = {
    {DType::f64, 1e-14, 1e-14}, {DType::f32, 1e-6, 1e-6}, {DType::bf16, 4e-3, 1e-6}};

// Experts by their rows and neurons, and a width.
struct Case {
  std::vector<std::int64_t> rows_of, neurons_of;
  std::int64_t width;
};
const std::vector<Case> kCases = {
    {{5, 0, 70, 1}, {16, 16, 16, 16}, 24},               // uneven rows, one expert without
    {{3, 9, 4}, {7, 33, 1}, 19},                         // uneven, odd neurons
    {{0, 0, 133, 0}, {48, 48, 48, 48}, 40},              // all rows to one expert
    {{0, 0}, {8, 8}, 16},                                // no rows at all
    {{300, 65, 64, 1, 600}, {130, 70, 64, 9, 288}, 96},  // several tiles
};

std::vector<std::int64_t> offsets(const std::vector<std::int64_t>& sizes) {
  std::vector<std::int64_t> sums = {0};
  for (const std::int64_t size : sizes) sums.push_back(sums.back() + size);
  return sums;
}

class GroupedGemm : public testing::TestWithParam<std::size_t> {
 protected:
  const Case& param() const { return kCases[GetParam()]; }
  std::vector<std::int64_t> rows_ = offsets(param().rows_of);
  std::vector<std::int64_t> neurons_ = offsets(param().neurons_of);
  ExpertGroups groups_{rows_, neurons_};
  std::int64_t width_ = param().width;

  static std::vector<double> part(const Tensor& t, std::int64_t first, std::int64_t count) {
    const auto all = to_doubles(t);
    return {all.begin() + first, all.begin() + first + count};
  }
  std::vector<double> rows_of(const Tensor& t, std::int64_t e) const {
    return part(t, rows_[std::size_t(e)] * width_, groups_.rows_of(e) * width_);
  }
  std::vector<double> weights_of(const Tensor& t, std::int64_t e) const {
    return part(t, neurons_[std::size_t(e)] * width_, groups_.neurons_of(e) * width_);
  }
  std::vector<double> hidden_of(const Tensor& t, std::int64_t e) const {
    return part(t, groups_.hidden_offset(e), groups_.rows_of(e) * groups_.neurons_of(e));
  }
  static void append(std::vector<double>& to, const std::vector<double>& what) {
    to.insert(to.end(), what.begin(), what.end());
  }
  Tensor start(const Shape& shape, DType type, int beta) const {
    return beta == 0 ? poisoned(shape, type) : random_tensor(shape, type, 9);
  }
};

TEST_P(GroupedGemm, UpEqualsOneProductPerExpert) {
  for (const Types& types : kTypes) {
    SCOPED_TRACE(name(types.type));
    const Tensor x = random_tensor({rows_.back(), width_}, types.type, 1);
    const Tensor w = random_tensor({neurons_.back(), width_}, types.type, 2);
    Tensor hidden = poisoned({groups_.hidden_size()}, types.type);
    cpu_backend().grouped_gemm_up(hidden, x, w, groups_);
    std::vector<double> want;
    for (std::int64_t e = 0; e < groups_.experts(); ++e)
      append(want, reference::product(rows_of(x, e), false, weights_of(w, e), true,
                                      groups_.rows_of(e), groups_.neurons_of(e), width_));
    EXPECT_LE(relative_error(hidden, want), types.tolerance);
  }
}

TEST_P(GroupedGemm, DownEqualsOneProductPerExpert) {
  for (const Types& types : kTypes)
    for (const int beta : {0, 1}) {
      SCOPED_TRACE(str(name(types.type), ", beta ", beta));
      const Tensor hidden = random_tensor({groups_.hidden_size()}, types.type, 1);
      const Tensor w = random_tensor({neurons_.back(), width_}, types.type, 2);
      Tensor y = start({rows_.back(), width_}, types.type, beta);
      std::vector<double> want;
      for (std::int64_t e = 0; e < groups_.experts(); ++e)
        append(want, reference::product(hidden_of(hidden, e), false, weights_of(w, e), false,
                                        groups_.rows_of(e), width_, groups_.neurons_of(e),
                                        beta == 0 ? std::vector<double>{} : rows_of(y, e)));
      cpu_backend().grouped_gemm_down(y, hidden, w, groups_, beta);
      EXPECT_LE(relative_error(y, want), types.tolerance);
    }
}

TEST_P(GroupedGemm, WeightGradientsEqualOneProductPerExpertAndAreZeroWithoutRows) {
  for (const Types& types : kTypes)
    for (const int beta : {0, 1}) {
      SCOPED_TRACE(str(name(types.type), ", beta ", beta));
      const Tensor hidden = random_tensor({groups_.hidden_size()}, types.type, 1);
      const Tensor x = random_tensor({rows_.back(), width_}, types.type, 2);
      Tensor dw = start({neurons_.back(), width_}, accumulator(types.type), beta);
      std::vector<double> want;
      for (std::int64_t e = 0; e < groups_.experts(); ++e)
        append(want, reference::product(hidden_of(hidden, e), true, rows_of(x, e), false,
                                        groups_.neurons_of(e), width_, groups_.rows_of(e),
                                        beta == 0 ? std::vector<double>{} : weights_of(dw, e)));
      cpu_backend().grouped_gemm_weight(dw, hidden, x, groups_, beta);
      EXPECT_LE(relative_error(dw, want), types.acc_tolerance);
    }
}

TEST_P(GroupedGemm, RepeatsToTheBit) {
  for (const Types& types : kTypes) {
    const Tensor x = random_tensor({rows_.back(), width_}, types.type, 1);
    const Tensor w = random_tensor({neurons_.back(), width_}, types.type, 2);
    const auto run = [&] {
      Tensor hidden = poisoned({groups_.hidden_size()}, types.type);
      Tensor y = poisoned({rows_.back(), width_}, types.type);
      Tensor dw = poisoned({neurons_.back(), width_}, accumulator(types.type));
      cpu_backend().grouped_gemm_up(hidden, x, w, groups_);
      cpu_backend().grouped_gemm_down(y, hidden, w, groups_, 0);
      cpu_backend().grouped_gemm_weight(dw, hidden, x, groups_, 0);
      return std::vector<Tensor>{hidden, y, dw};
    };
    const auto first = run(), second = run();
    for (std::size_t i = 0; i < first.size(); ++i)
      EXPECT_TRUE(same_bits(first[i], second[i])) << name(types.type) << ", result " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GroupedGemm, testing::Range(std::size_t{0}, kCases.size()));

TEST(GroupedGemmF64, ARowDoesNotDependOnTheOtherRowsOfItsExpert) {
  const std::int64_t width = 40, count = 150;
  const std::vector<std::int64_t> rows = {0, 20, count}, neurons = {0, 30, 100};
  const Tensor x = random_tensor({count, width}, DType::f64, 1);
  const Tensor w = random_tensor({100, width}, DType::f64, 2);
  const ExpertGroups groups{rows, neurons};
  Tensor hidden = poisoned({groups.hidden_size()}, DType::f64);
  cpu_backend().grouped_gemm_up(hidden, x, w, groups);
  for (const std::int64_t row : {20, 21, 87, 149}) {
    const std::vector<std::int64_t> one = {0, 0, 1};
    Tensor alone = poisoned({70}, DType::f64);
    cpu_backend().grouped_gemm_up(alone, x.slice(row, 1), w, ExpertGroups{one, neurons});
    EXPECT_TRUE(same_bits(alone, hidden.slice(groups.hidden_offset(1) + (row - 20) * 70, 70)))
        << "row " << row;
  }
}

}  // namespace
}  // namespace moe
