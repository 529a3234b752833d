// SPDX-License-Identifier: Apache-2.0
#include "autograd/recompute.h"

namespace moe {
namespace {

struct Decisions {
  std::vector<Tensor> values;
  std::size_t next = 0;
  bool replay = false;
};

thread_local Decisions* current_decisions = nullptr;

class DecisionScope {
 public:
  explicit DecisionScope(Decisions& decisions) : previous_(current_decisions) {
    current_decisions = &decisions;
  }
  ~DecisionScope() { current_decisions = previous_; }
  DecisionScope(const DecisionScope&) = delete;
  DecisionScope& operator=(const DecisionScope&) = delete;

 private:
  Decisions* previous_;
};

}  // namespace

Tensor decide_once(const std::function<Tensor()>& make) {
  if (current_decisions == nullptr) return make();
  Decisions& d = *current_decisions;
  if (!d.replay) return d.values.emplace_back(make());
  MOE_CHECK(d.next < d.values.size(), "a recomputed block asks for more decisions than it made");
  return d.values[d.next++];
}

bool recomputing() { return current_decisions != nullptr && current_decisions->replay; }

std::vector<Variable> recompute(const Block& block, std::span<const Variable> inputs,
                                std::span<const Variable> parameters) {
  if (Tape::active() == nullptr) return block(inputs);
  auto decisions = std::make_shared<Decisions>();
  std::vector<Tensor> outputs;
  {
    NoTape no_recording;
    DecisionScope scope(*decisions);
    for (Variable& v : block(inputs)) outputs.push_back(std::move(v.value));
  }
  decisions->replay = true;

  std::vector<Variable> all(inputs.begin(), inputs.end());
  all.insert(all.end(), parameters.begin(), parameters.end());
  const std::size_t n = all.size();
  std::vector<Tensor> values;
  std::vector<bool> wanted;
  for (const Variable& v : inputs) {
    values.push_back(v.value);
    wanted.push_back(v.wants_gradient());
  }

  return record(
      "recompute", all, std::move(outputs),
      [block, decisions, values, wanted, n](std::span<const Tensor> dy) {
        DecisionScope scope(*decisions);
        std::vector<Variable> leaves;
        for (std::size_t i = 0; i < values.size(); ++i)
          leaves.push_back(wanted[i] ? Variable::leaf(values[i]) : Variable::constant(values[i]));
        Tape tape;
        const std::vector<Variable> again = block(leaves);
        tape.backward(again, dy);
        // Parameters got their share directly; their entries stay undefined.
        std::vector<Tensor> grads(n);
        for (std::size_t i = 0; i < leaves.size(); ++i)
          if (leaves[i].slot) grads[i] = leaves[i].slot->grad;
        return grads;
      });
}

}  // namespace moe
