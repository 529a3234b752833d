// SPDX-License-Identifier: Apache-2.0
#include "nn/shared_experts.h"

#include "ops/experts.h"
#include "ops/linear.h"
#include "ops/permute.h"
#include "ops/routing.h"

namespace moe {

SharedExperts::SharedExperts(const ModelConfig& config, const ParameterStore& parameters,
                             std::int64_t layer)
    : scale_(config.moe.shared_scale),
      gate_(parameters[str("layers.", layer, ".shared.gate.weight")]),
      up_(parameters[str("layers.", layer, ".shared.up.weight")]),
      down_(parameters[str("layers.", layer, ".shared.down.weight")]),
      neuron_offsets_{0} {
  if (config.moe.shared_gate) router_ = parameters[str("layers.", layer, ".shared_router.weight")];
  for (const std::int64_t n : config.layer_shared_sizes(layer))
    neuron_offsets_.push_back(neuron_offsets_.back() + n);
}

Variable SharedExperts::forward(const Variable& x) const {
  const std::int64_t tokens = x.value.rows();
  if (!router_.value.defined())  // a sum of SwiGLUs is one SwiGLU over all their neurons
    return ops::expert_ffn(x, gate_, up_, down_, {0, tokens}, {0, neuron_offsets_.back()});

  const auto experts = std::int64_t(neuron_offsets_.size()) - 1;
  const Variable weights = ops::softmax(ops::linear(x, router_, accumulator(x.value.dtype())));
  Tensor all = Tensor::empty({tokens, experts}, DType::i32);
  std::vector<std::int64_t> row_offsets = {0};
  for (std::int64_t e = 0; e < experts; ++e) {
    for (std::int64_t t = 0; t < tokens; ++t)
      all.data<std::int32_t>()[t * experts + e] = std::int32_t(e);
    row_offsets.push_back(row_offsets.back() + tokens);
  }
  const ops::Permutation sorted = ops::sort_by_expert(all.to(x.value.device()), experts);
  const Variable rows = ops::expert_ffn(ops::dispatch(x, sorted), gate_, up_, down_,
                                        std::move(row_offsets), neuron_offsets_);
  return ops::combine(rows, weights, sorted, scale_);
}

}  // namespace moe
