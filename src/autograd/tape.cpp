// SPDX-License-Identifier: Apache-2.0
#include "autograd/tape.h"

#include <algorithm>

#include "kernels/backend.h"

namespace moe {
namespace {

thread_local Tape* active_tape = nullptr;

Tensor zeros_like(const Tensor& t) {
  Tensor zero = empty_like(t);
  backend(t.device()).fill(zero, 0);
  return zero;
}

}  // namespace

void GradSlot::accumulate(const Tensor& contribution) {
  Backend& device = backend(contribution.device());
  if (!grad.defined() && storage.defined()) {
    device.cast(storage, contribution);
    grad = storage;
    owned = true;
  } else if (!grad.defined()) {
    grad = contribution;
    owned = false;
  } else if (owned) {
    device.add_into(grad, contribution);
  } else {
    Tensor sum = empty_like(grad);
    device.add(sum, grad, contribution);
    grad = std::move(sum);
    owned = true;
  }
}

Tape::Tape() : previous_(active_tape) { active_tape = this; }
Tape::~Tape() { active_tape = previous_; }
Tape* Tape::active() { return active_tape; }

NoTape::NoTape() : previous_(active_tape) { active_tape = nullptr; }
NoTape::~NoTape() { active_tape = previous_; }

std::vector<Variable> record(const char* op, std::span<const Variable> inputs,
                             std::vector<Tensor> outputs, Backward backward) {
  const bool wanted =
      active_tape != nullptr && std::any_of(inputs.begin(), inputs.end(),
                                            [](const Variable& v) { return v.wants_gradient(); });
  std::vector<Variable> result;
  for (Tensor& t : outputs) result.push_back(wanted ? Variable::leaf(t) : Variable::constant(t));
  if (!wanted) return result;
  Tape::Node node{op, {}, {}, {}, std::move(backward)};
  for (const Variable& v : inputs) {
    if (v.slot) ++v.slot->pending_uses;
    node.inputs.push_back(v.slot);
  }
  for (const Variable& v : result) node.outputs.push_back(v.slot);
  // One output is reached or the node is skipped; only nodes with several can need zeros.
  if (outputs.size() > 1) node.output_likes = std::move(outputs);
  active_tape->nodes_.push_back(std::move(node));
  return result;
}

Variable record(const char* op, std::initializer_list<Variable> inputs, Tensor output,
                Backward backward) {
  std::vector<Tensor> outputs = {std::move(output)};
  return record(op, std::span(inputs.begin(), inputs.size()), std::move(outputs),
                std::move(backward))
      .front();
}

void Tape::backward(const Variable& loss) {
  MOE_CHECK(loss.wants_gradient(), "the loss depends on no parameter");
  MOE_CHECK(loss.value.size() == 1, "the loss has ", loss.value.size(), " elements");
  Tensor one = empty_like(loss.value);
  moe::backend(one.device()).fill(one, 1);
  backward(std::span(&loss, 1), std::span<const Tensor>(&one, 1));
}

void Tape::backward(std::span<const Variable> outputs, std::span<const Tensor> output_grads) {
  MOE_CHECK(outputs.size() == output_grads.size());
  NoTape no_recording;
  for (std::size_t i = 0; i < outputs.size(); ++i)
    if (outputs[i].slot) outputs[i].slot->accumulate(output_grads[i]);
  while (!nodes_.empty()) {
    Node node = std::move(nodes_.back());
    nodes_.pop_back();
    const bool reached = std::any_of(node.outputs.begin(), node.outputs.end(),
                                     [](const auto& slot) { return slot->grad.defined(); });
    std::vector<Tensor> grads(node.inputs.size());
    if (reached) {
      std::vector<Tensor> out;
      for (std::size_t i = 0; i < node.outputs.size(); ++i) {
        const Tensor& grad = node.outputs[i]->grad;
        out.push_back(grad.defined() ? grad : zeros_like(node.output_likes[i]));
      }
      grads = node.backward(out);
      MOE_CHECK(grads.size() == node.inputs.size(), node.op, " returned ", grads.size(),
                " gradients for ", node.inputs.size(), " inputs");
    }
    node.backward = nullptr;  // frees what the op saved before the sums below allocate
    for (std::size_t i = 0; i < grads.size(); ++i) {
      GradSlot* slot = node.inputs[i].get();
      if (slot == nullptr) continue;
      if (grads[i].defined()) slot->accumulate(grads[i]);
      if (--slot->pending_uses == 0 && slot->on_ready) slot->on_ready();
    }
  }
}

}  // namespace moe
