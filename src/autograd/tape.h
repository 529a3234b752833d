// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace moe {

/// Where the gradient of one Variable adds up. Shared by all copies of the Variable.
struct GradSlot {
  /// Undefined until the first contribution; f32 for bf16 parameters.
  Tensor grad;
  /// When defined, the gradient is kept in these bytes (a bucket of optim/gradients.h).
  Tensor storage;
  /// Called by backward when the last recorded use of the Variable has given its share.
  std::function<void()> on_ready;

  /// grad += contribution.
  void accumulate(const Tensor& contribution);

  int pending_uses = 0;  // recorded uses whose backward has not run yet
  bool owned = false;    // grad's bytes belong to this slot alone, so they may be added to in place
};

class Recipe;

/// A tensor that may want a gradient. A Variable without a slot is a constant.
struct Variable {
  Tensor value;
  std::shared_ptr<GradSlot> slot;
  std::shared_ptr<Recipe> recipe;  // when set, backward need not keep the value (recipe.h)

  static Variable constant(Tensor v) { return {std::move(v), nullptr, nullptr}; }
  static Variable leaf(Tensor v) { return {std::move(v), std::make_shared<GradSlot>(), nullptr}; }
  bool wants_gradient() const { return slot != nullptr; }
};

/// Gradients of an op's outputs in, gradients of its inputs out, both in recording order. An output
/// that nothing used has a zero gradient; an undefined Tensor returned means "no gradient". Output
/// gradients may be shared with other ops and must not be written; saved tensors may be, because a
/// closure runs once.
using Backward = std::function<std::vector<Tensor>(std::span<const Tensor> output_grads)>;

/// The ops of one forward pass in the order they ran, which is a topological order: backward()
/// walks them from the end and drops each with all it saved. While a Tape lives it is its thread's
/// active tape; without one nothing is recorded, so evaluation needs no flag.
class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// Adds d(loss)/d(leaf) to every leaf; loss: one element. Empties the tape.
  void backward(const Variable& loss);
  /// The same from given output gradients.
  void backward(std::span<const Variable> outputs, std::span<const Tensor> output_grads);

  static Tape* active();

 private:
  friend std::vector<Variable> record(const char*, std::span<const Variable>, std::vector<Tensor>,
                                      Backward);
  struct Node {
    const char* op;
    std::vector<std::shared_ptr<GradSlot>> inputs, outputs;
    std::vector<Tensor> output_likes;  // shape and type of outputs, where zeros may be needed
    Backward backward;
  };
  std::vector<Node> nodes_;
  Tape* previous_;
};

/// Suspends recording on this thread while it lives: the code inside sees no active tape.
class NoTape {
 public:
  NoTape();
  ~NoTape();
  NoTape(const NoTape&) = delete;
  NoTape& operator=(const NoTape&) = delete;

 private:
  Tape* previous_;
};

/// Adds an op to the active tape and makes its outputs Variables. Without an active tape, or when
/// no input wants a gradient, the outputs are constants and `backward` is dropped.
std::vector<Variable> record(const char* op, std::span<const Variable> inputs,
                             std::vector<Tensor> outputs, Backward backward);
Variable record(const char* op, std::initializer_list<Variable> inputs, Tensor output,
                Backward backward);

}  // namespace moe
