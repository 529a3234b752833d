// SPDX-License-Identifier: Apache-2.0
#include "autograd/recipe.h"

#include <utility>

namespace moe {

Kept::Kept(const Variable& input) : recipe_(input.recipe) {
  if (!recipe_) value_ = input.value;
}

Tensor Kept::take() {
  if (!recipe_) return std::move(value_);
  const auto recipe = std::move(recipe_);
  if (!recipe->value_.defined()) recipe->value_ = recipe->make_();
  return recipe->value_;
}

}  // namespace moe
