// SPDX-License-Identifier: Apache-2.0
#include "autograd/recipe.h"

#include <gtest/gtest.h>

#include <optional>

namespace moe {
namespace {

TEST(Recipe, KeepsTheValueOfAnInputWithoutOne) {
  Kept kept(Variable::constant(Tensor::of<float>({1}, {3})));
  EXPECT_EQ(kept.take().data<float>()[0], 3);
}

TEST(Recipe, IsFollowedOnceForAllUsersAndGoesWithTheLast) {
  int made = 0;
  std::weak_ptr<Recipe> recipe;
  std::optional<Kept> first, second, unused;
  {
    Variable v = Variable::constant(Tensor::of<float>({1}, {3}));
    v.recipe = std::make_shared<Recipe>([&made] {
      ++made;
      return Tensor::of<float>({1}, {3});
    });
    recipe = v.recipe;
    first.emplace(v);
    second.emplace(v);
    unused.emplace(v);
  }
  EXPECT_EQ(made, 0);
  const Tensor a = first->take(), b = second->take();
  EXPECT_EQ(made, 1);
  EXPECT_EQ(a.bytes(), b.bytes());
  EXPECT_FALSE(recipe.expired());
  unused.reset();  // a branch that backward did not reach
  EXPECT_TRUE(recipe.expired());
}

}  // namespace
}  // namespace moe
