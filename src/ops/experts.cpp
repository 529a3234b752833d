// SPDX-License-Identifier: Apache-2.0
#include "ops/experts.h"

#include "kernels/backend.h"

namespace moe::ops {

Variable expert_ffn(const Variable& x, const Variable& gate, const Variable& up,
                    const Variable& down, std::vector<std::int64_t> row_offsets,
                    std::vector<std::int64_t> neuron_offsets) {
  const Tensor xv = x.value, wg = gate.value, wu = up.value, wd = down.value;
  MOE_CHECK(row_offsets.size() == neuron_offsets.size() && row_offsets.back() == xv.rows(),
            "expert_ffn: ", row_offsets.back(), " rows by the offsets, ", xv.rows(), " given");
  for (const Tensor& w : {wg, wu, wd})
    MOE_CHECK(w.rows() == neuron_offsets.back() && w.cols() == xv.cols(), "expert_ffn: weight ",
              join(w.shape()), " for ", neuron_offsets.back(), " neurons and input ",
              join(xv.shape()));
  Backend& device = backend(xv.device());
  const ExpertGroups groups{row_offsets, neuron_offsets};
  const Shape hidden = {groups.hidden_size()};
  Tensor g = Tensor::empty(hidden, xv.dtype(), xv.device()), u = empty_like(g), a = empty_like(g);
  device.grouped_gemm_up(g, xv, wg, groups);
  device.grouped_gemm_up(u, xv, wu, groups);
  device.swiglu_forward(a, g, u);
  Tensor y = empty_like(xv);
  device.grouped_gemm_down(y, a, wd, groups, 0);

  return record("expert_ffn", {x, gate, up, down}, y,
                [&device, xv, wg, wu, wd, g, u, rows = std::move(row_offsets),
                 neurons = std::move(neuron_offsets)](std::span<const Tensor> dy) mutable {
                  const ExpertGroups own{rows, neurons};
                  const DType acc = accumulator(xv.dtype());
                  const auto weight_gradient = [&](const Tensor& h, const Tensor& rows_in) {
                    Tensor dw = Tensor::empty(wg.shape(), acc, wg.device());
                    device.grouped_gemm_weight(dw, h, rows_in, own, 0);
                    return dw;
                  };
                  Tensor da = empty_like(g);
                  device.grouped_gemm_up(da, dy[0], wd, own);
                  // g, u and da are not needed after this: the gradients take their bytes.
                  Tensor dg = g, du = u, activation = da;
                  device.swiglu_backward(dg, du, activation, da, g, u);
                  Tensor dwd = weight_gradient(activation, dy[0]);
                  Tensor dwg = weight_gradient(dg, xv), dwu = weight_gradient(du, xv);
                  Tensor dx = empty_like(xv);
                  device.grouped_gemm_down(dx, dg, wg, own, 0);
                  device.grouped_gemm_down(dx, du, wu, own, 1);
                  return std::vector<Tensor>{dx, dwg, dwu, dwd};
                });
}

}  // namespace moe::ops
