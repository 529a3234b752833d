// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>

#include "autograd/tape.h"

namespace moe {

/// How to make a value again from what is kept anyway, for values that cost more memory than time.
/// The first of its users in backward makes it; it goes with the last of those who keep the recipe.
class Recipe {
 public:
  explicit Recipe(std::function<Tensor()> make) : make_(std::move(make)) {}

 private:
  friend class Kept;
  std::function<Tensor()> make_;
  Tensor value_;
};

/// What an op keeps of an input for its backward: the value, or its recipe where it has one.
class Kept {
 public:
  explicit Kept(const Variable& input);
  /// The value; once, in the op's backward.
  Tensor take();

 private:
  Tensor value_;
  std::shared_ptr<Recipe> recipe_;
};

}  // namespace moe
