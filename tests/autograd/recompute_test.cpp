// SPDX-License-Identifier: Apache-2.0
#include "autograd/recompute.h"

#include <gtest/gtest.h>

#include "kernels/backend.h"

namespace moe {
namespace {

Tensor one(double v) { return Tensor::of<double>({1}, {v}); }
double value(const Tensor& t) { return *t.data<double>(); }

Variable product(const Variable& a, const Variable& b) {
  return record("product", {a, b}, one(value(a.value) * value(b.value)),
                [av = value(a.value), bv = value(b.value)](std::span<const Tensor> dy) {
                  return std::vector<Tensor>{one(value(dy[0]) * bv), one(value(dy[0]) * av)};
                });
}

TEST(Recompute, GivesTheGradientsOfTheRecordedBlock) {
  Variable x = Variable::leaf(one(2)), w = Variable::leaf(one(5));
  int ready = 0;
  w.slot->on_ready = [&] { ++ready; };
  const Block block = [&](std::span<const Variable> in) {
    return std::vector<Variable>{product(product(in[0], w), in[0])};
  };
  Tape tape;
  const std::vector<Variable> y = recompute(block, std::span(&x, 1), std::span(&w, 1));
  EXPECT_EQ(value(y[0].value), 20);
  tape.backward(product(y[0], w));  // w is also used outside the block
  EXPECT_EQ(value(x.slot->grad), 2 * 2 * 5 * 5);
  EXPECT_EQ(value(w.slot->grad), 2 * 2 * 2 * 5);
  EXPECT_EQ(ready, 1);
}

TEST(Recompute, DecidesOnceAndSaysWhenItRunsAgain) {
  Variable x = Variable::leaf(one(2));
  int decided = 0;
  std::vector<bool> again;
  const Block block = [&](std::span<const Variable> in) {
    const Tensor choice = decide_once([&] { return one(double(++decided)); });
    again.push_back(recomputing());
    return std::vector<Variable>{product(in[0], Variable::constant(choice))};
  };
  Tape tape;
  const Variable a = recompute(block, std::span(&x, 1), {})[0];
  const Variable b = recompute(block, std::span(&a, 1), {})[0];
  tape.backward(b);
  EXPECT_EQ(decided, 2);
  EXPECT_EQ(value(x.slot->grad), 2);  // 1 * 2: each block met its own decision again
  EXPECT_EQ(again, (std::vector<bool>{false, false, true, true}));
}

}  // namespace
}  // namespace moe
