// SPDX-License-Identifier: Apache-2.0
#include "autograd/tape.h"

#include <gtest/gtest.h>

#include "kernels/backend.h"

namespace moe {
namespace {

Variable scaled(const Variable& x, double factor) {
  Tensor y = x.value.clone();
  backend(Device::cpu).scale(y, factor);
  return record("scaled", {x}, y, [factor](std::span<const Tensor> dy) {
    Tensor dx = dy[0].clone();
    backend(Device::cpu).scale(dx, factor);
    return std::vector<Tensor>{dx};
  });
}

/// Passes the same gradient tensor to both inputs, as additions do.
Variable sum(const Variable& a, const Variable& b) {
  Tensor y = empty_like(a.value);
  backend(Device::cpu).add(y, a.value, b.value);
  return record("sum", {a, b}, y, [](std::span<const Tensor> dy) {
    return std::vector<Tensor>{dy[0], dy[0]};
  });
}

double grad(const Variable& v) { return *v.slot->grad.data<double>(); }
Tensor one(double v) { return Tensor::of<double>({1}, {v}); }

TEST(Tape, AddsUpEveryUseOfAVariable) {
  Variable x = Variable::leaf(one(2));
  Tape tape;
  tape.backward(sum(scaled(x, 3), sum(x, scaled(x, 5))));
  EXPECT_EQ(grad(x), 9);
}

TEST(Tape, DoesNotWriteIntoAGradientThatAnotherVariableShares) {
  Variable a = Variable::leaf(one(1)), b = Variable::leaf(one(1));
  Tape tape;
  // a and b adopt the same tensor from the inner sum; a then gets more.
  tape.backward(sum(scaled(a, 10), sum(a, b)));
  EXPECT_EQ(grad(a), 11);
  EXPECT_EQ(grad(b), 1);
}

TEST(Tape, RecordsNothingWithoutATapeOrUnderNoTape) {
  Variable x = Variable::leaf(one(2));
  EXPECT_FALSE(scaled(x, 3).wants_gradient());
  Tape tape;
  {
    NoTape off;
    EXPECT_FALSE(scaled(x, 3).wants_gradient());
  }
  EXPECT_TRUE(scaled(x, 3).wants_gradient());
}

TEST(Tape, AccumulatesOverBackwardPassesAndIntoStorage) {
  Variable x = Variable::leaf(one(2));
  x.slot->storage = one(99);
  for (int pass = 0; pass < 2; ++pass) {
    Tape tape;
    tape.backward(scaled(x, 3));
  }
  EXPECT_EQ(grad(x), 6);
  EXPECT_EQ(*x.slot->storage.data<double>(), 6);
}

TEST(Tape, OnReadyFiresOnceAfterTheLastUseEvenWhenTheLossDoesNotReachIt) {
  Variable x = Variable::leaf(one(2)), unused = Variable::leaf(one(1));
  int fired = 0;
  bool complete = false;
  x.slot->on_ready = [&] {
    ++fired;
    complete = grad(x) == 8;
  };
  int fired_unused = 0;
  unused.slot->on_ready = [&] { ++fired_unused; };
  Tape tape;
  Variable loss = sum(scaled(x, 3), scaled(x, 5));
  scaled(unused, 2);  // recorded, but not part of the loss
  tape.backward(loss);
  EXPECT_EQ(fired, 1);
  EXPECT_TRUE(complete);
  EXPECT_EQ(fired_unused, 1);
  EXPECT_FALSE(unused.slot->grad.defined());
}

TEST(Tape, FreesWhatAnOpSavedAsBackwardPassesIt) {
  Variable x = Variable::leaf(one(2));
  auto token = std::make_shared<int>(0);
  std::weak_ptr<int> watch = token;
  bool alive_later = true;
  Tape tape;
  Variable early = record("early", {x}, one(1), [&](std::span<const Tensor> dy) {
    alive_later = !watch.expired();
    return std::vector<Tensor>{dy[0]};
  });
  Variable late = record("late", {early}, one(1), [token](std::span<const Tensor> dy) {
    return std::vector<Tensor>{dy[0]};
  });
  token.reset();
  tape.backward(late);
  EXPECT_FALSE(alive_later);
}

TEST(Tape, RejectsALossOfSeveralElementsAndOneThatDependsOnNothing) {
  Variable x = Variable::leaf(Tensor::of<double>({2}, {1, 2}));
  Tape tape;
  EXPECT_THROW(tape.backward(scaled(x, 2)), Error);
  EXPECT_THROW(tape.backward(Variable::constant(one(1))), Error);
}

}  // namespace
}  // namespace moe
