// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "autograd/tape.h"
#include "nn/moe_layer.h"

namespace moe {

/// A training pass over whole sequences. `ids`: one a sequence; must outlive the context.
inline ForwardContext layer_context(const std::vector<std::int64_t>& ids, std::int64_t length) {
  ForwardContext context;
  context.sequences = std::int64_t(ids.size());
  context.length = length;
  context.sequence_tokens.assign(ids.size(), length);
  context.training = true;
  context.sequence_ids = ids;
  context.inverse_routed = 1.0 / double(context.tokens());
  return context;
}

/// Forward and backward of one layer alone.
inline void layer_pass(const std::function<SublayerOutput(const Variable&)>& layer, const Tensor& x,
                       const Tensor& dy) {
  Tape tape;
  const SublayerOutput out = layer(Variable::leaf(x));
  std::vector<Variable> outputs = {out.y};
  std::vector<Tensor> grads = {dy};
  if (out.loss.value.defined()) {
    outputs.push_back(out.loss);
    grads.push_back(Tensor::of<float>({1}, {1}).to(x.device()));
  }
  tape.backward(outputs, grads);
}

}  // namespace moe
