// SPDX-License-Identifier: Apache-2.0
#include "ops/experts.h"

#include <utility>

#include "autograd/recipe.h"

namespace moe::ops {

ExpertMatrices gradients_like(const Tensor& weight) {
  const auto gradient = [&] {
    return Tensor::empty(weight.shape(), accumulator(weight.dtype()), weight.device());
  };
  return {gradient(), gradient(), gradient()};
}

ExpertPass::ExpertPass(ExpertMatrices weights, std::vector<std::int64_t> row_offsets,
                       std::vector<std::int64_t> neuron_offsets, std::int64_t sharing)
    : weights_(std::move(weights)),
      rows_(std::move(row_offsets)),
      neurons_(std::move(neuron_offsets)),
      sharing_(sharing) {
  MOE_CHECK(rows_.size() == neurons_.size(), "experts: ", rows_.size(), " row offsets and ",
            neurons_.size(), " neuron offsets");
}

Tensor ExpertPass::forward(const Tensor& x) {
  MOE_CHECK(rows_.back() == x.rows(), "experts: ", rows_.back(), " rows by the offsets, ", x.rows(),
            " given");
  for (const Tensor& w : {weights_.gate, weights_.up, weights_.down})
    MOE_CHECK(w.rows() == neurons_.back() && w.cols() == x.cols(), "experts: weight ",
              join(w.shape()), " for ", neurons_.back(), " neurons and input ", join(x.shape()));
  Backend& device = backend(x.device());
  const ExpertGroups own = groups();
  gate_ = Tensor::empty({own.hidden_size()}, x.dtype(), x.device());
  up_ = empty_like(gate_);
  Tensor activation = empty_like(gate_);
  device.grouped_gemm_up(gate_, x, weights_.gate, own);
  device.grouped_gemm_up(up_, x, weights_.up, own);
  device.swiglu_forward(activation, gate_, up_);
  Tensor y = empty_like(x);
  device.grouped_gemm_down(y, activation, weights_.down, own, 0);
  return y;
}

Tensor ExpertPass::input_gradient(const Tensor& dy) {
  Backend& device = backend(dy.device());
  const ExpertGroups own = groups();
  dy_ = dy;
  activation_ = empty_like(gate_);
  device.grouped_gemm_up(activation_, dy, weights_.down, own);
  // The products and the activation's gradient are not needed after this: results take their bytes.
  device.swiglu_backward(gate_, up_, activation_, activation_, gate_, up_);
  Tensor dx = empty_like(dy);
  device.grouped_gemm_down(dx, gate_, weights_.gate, own, 0);
  device.grouped_gemm_down(dx, up_, weights_.up, own, 1);
  return dx;
}

void ExpertPass::weight_gradients(ExpertMatrices& gradients, const Tensor& x) {
  Backend& device = backend(x.device());
  const ExpertGroups own = groups();
  device.grouped_gemm_weight(gradients.down, activation_, dy_, own, 0);
  device.grouped_gemm_weight(gradients.gate, gate_, x, own, 0);
  device.grouped_gemm_weight(gradients.up, up_, x, own, 0);
  gate_ = up_ = dy_ = activation_ = {};
}

Variable expert_ffn(const Variable& x, const Variable& gate, const Variable& up,
                    const Variable& down, std::vector<std::int64_t> row_offsets,
                    std::vector<std::int64_t> neuron_offsets) {
  ExpertPass pass({gate.value, up.value, down.value}, std::move(row_offsets),
                  std::move(neuron_offsets));
  Tensor y = pass.forward(x.value);
  return record("expert_ffn", {x, gate, up, down}, std::move(y),
                [pass = std::move(pass), kept = Kept(x), w = gate.value,
                 wants_dw = gate.wants_gradient()](std::span<const Tensor> dy) mutable {
                  Tensor dx = pass.input_gradient(dy[0]);
                  if (!wants_dw) return std::vector<Tensor>{dx, {}, {}, {}};
                  ExpertMatrices dw = gradients_like(w);
                  pass.weight_gradients(dw, kept.take());
                  return std::vector<Tensor>{dx, dw.gate, dw.up, dw.down};
                });
}

}  // namespace moe::ops
