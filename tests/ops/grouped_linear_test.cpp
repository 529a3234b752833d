// SPDX-License-Identifier: Apache-2.0
#include "ops/grouped_linear.h"

#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "support/grad_check.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using testing::expect_gradients;
using testing::random_f64;

const std::vector<std::int64_t> kOffsets = {0, 3, 3, 4, 9};  // of 4 experts, one without rows
constexpr std::int64_t kHidden = 5, kColumns = 3;

TEST(GroupedLinear, EveryExpertMultipliesItsRowsAlone) {
  const Variable x = Variable::constant(random_f64({9, kHidden}, 1)),
                 w = Variable::constant(random_f64({4 * kColumns, kHidden}, 2)),
                 narrow = Variable::constant(random_f64({9, kColumns}, 3));
  const Tensor up = ops::grouped_up(x, w, kOffsets).value,
               down = ops::grouped_down(narrow, w, kOffsets).value;
  EXPECT_EQ(up.shape(), (Shape{9, kColumns}));
  EXPECT_EQ(down.shape(), (Shape{9, kHidden}));
  for (std::size_t e = 0; e < 4; ++e) {
    const std::int64_t first = kOffsets[e], count = kOffsets[e + 1] - first;
    if (count == 0) continue;
    const Tensor own = w.value.slice(std::int64_t(e) * kColumns, kColumns);
    Tensor want = empty_like(up.slice(first, count)), back = empty_like(down.slice(first, count));
    cpu_backend().gemm(want, x.value.slice(first, count), false, own, true, 0);
    cpu_backend().gemm(back, narrow.value.slice(first, count), false, own, false, 0);
    EXPECT_TRUE(test::near(up.slice(first, count), test::to_doubles(want), 1e-14));
    EXPECT_TRUE(test::near(down.slice(first, count), test::to_doubles(back), 1e-14));
  }
}

TEST(GroupedLinear, GradientsMatchCentralDifferences) {
  expect_gradients([](const auto& in) { return ops::grouped_up(in[0], in[1], kOffsets); },
                   {random_f64({9, kHidden}, 1), random_f64({4 * kColumns, kHidden}, 2)});
  expect_gradients([](const auto& in) { return ops::grouped_down(in[0], in[1], kOffsets); },
                   {random_f64({9, kColumns}, 1), random_f64({4 * kColumns, kHidden}, 2)});
}

TEST(GroupedLinear, RefusesTensorsThatDoNotBelongTogether) {
  const Variable x = Variable::constant(random_f64({9, kHidden}, 1)),
                 w = Variable::constant(random_f64({4 * kColumns, kHidden}, 2));
  EXPECT_THROW(ops::grouped_down(x, w, kOffsets), Error);
  EXPECT_THROW(ops::grouped_up(x, w, {0, 1, 2, 3, 4, 9}), Error) << "12 rows for 5 experts";
  EXPECT_THROW(ops::grouped_up(x, w, {0, 3, 3, 4, 8}), Error);
  EXPECT_THROW(ops::grouped_up(x, Variable::constant(random_f64({12, 4}, 2)), kOffsets), Error);
  EXPECT_THROW(ops::grouped_up(x, w, {}), Error);
}

}  // namespace
}  // namespace moe
