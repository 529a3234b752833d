// SPDX-License-Identifier: Apache-2.0
#include "split/token_sums.h"

#include "support/tensor_tools.h"

namespace moe {
namespace {

using test::near;
using test::random_tensor;

// More tokens than one product takes.
constexpr std::int64_t kTokens = 300, kColumns = 700, kExperts = 5;

TEST(TokenSums, AddUpTheColumnsOfEachGroupAndLeaveOutTheRest) {
  const Tensor x = random_tensor({kTokens, kColumns}, DType::f32, 1);
  std::vector<std::int32_t> labels;
  for (std::int32_t c = 0; c < kColumns; ++c) labels.push_back(c * c % 6);  // 5: left out; 2: none
  std::vector<double> expected(std::size_t(kTokens * kExperts), 0.0);
  for (std::int64_t t = 0; t < kTokens; ++t)
    for (std::int64_t c = 0; c < kColumns; ++c)
      if (const std::int32_t e = labels[std::size_t(c)]; e < kExperts)
        expected[std::size_t(t * kExperts + e)] += x.data<float>()[t * kColumns + c];
  EXPECT_TRUE(near(sums_by_group(x, labels, kExperts), expected, 1e-6));
  test::expect_same_bits_on_any_threads(
      [&] { return std::vector<Tensor>{sums_by_group(x, labels, kExperts)}; });
}

TEST(TokenSums, AddUpTheTokensThatChoseEachExpert) {
  for (const std::int64_t tokens : {0, 7, 2900}) {  // fewer than tasks; more than one product each
    const std::int64_t columns = 30;
    const Tensor x = random_tensor({tokens, columns}, DType::f32, 2);
    const Tensor chosen = test::random_indices({tokens, 2}, 0, kExperts - 2, 3);  // the last: none
    std::vector<double> expected(std::size_t(kExperts * columns), 0.0);
    for (std::int64_t i = 0; i < 2 * tokens; ++i)
      for (std::int64_t c = 0; c < columns; ++c)
        expected[std::size_t(chosen.data<std::int32_t>()[i] * columns + c)] +=
            x.data<float>()[i / 2 * columns + c];
    EXPECT_TRUE(near(sums_by_choice(x, chosen, kExperts), expected, 1e-6)) << tokens << " tokens";
    test::expect_same_bits_on_any_threads(
        [&] { return std::vector<Tensor>{sums_by_choice(x, chosen, kExperts)}; });
  }
}

}  // namespace
}  // namespace moe
