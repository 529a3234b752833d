// SPDX-License-Identifier: Apache-2.0
#include "ops/loss.h"

#include <algorithm>

#include "kernels/backend.h"
#include "ops/scalar.h"

namespace moe::ops {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{32} << 20;  // of logits

}  // namespace

CrossEntropy linear_cross_entropy(const Variable& x, const Variable& head, const Tensor& labels,
                                  double factor) {
  const Tensor& xv = x.value;
  const Tensor& w = head.value;
  MOE_CHECK(labels.size() == xv.rows(), "cross entropy: ", labels.size(), " labels for ", xv.rows(),
            " rows");
  MOE_CHECK(w.cols() == xv.cols() && w.dtype() == xv.dtype(), "cross entropy: head ",
            join(w.shape()), " ", name(w.dtype()), " for ", join(xv.shape()), " ",
            name(xv.dtype()));
  Backend& device = backend(xv.device());
  const DType acc = accumulator(xv.dtype());
  const bool gradients =
      Tape::active() != nullptr && (x.wants_gradient() || head.wants_gradient()) && factor != 0;

  const std::int64_t rows = xv.rows(), vocabulary = w.rows();
  const std::int64_t row_bytes = vocabulary * std::int64_t(size_of(acc));
  const std::int64_t chunk =
      std::clamp<std::int64_t>(kChunkBytes / row_bytes, 16, std::max<std::int64_t>(rows, 16));
  Tensor token_loss = Tensor::empty({rows}, acc, xv.device());
  Tensor dx, dw;
  if (gradients) {
    if (x.wants_gradient()) dx = empty_like(xv);
    if (head.wants_gradient()) dw = Tensor::empty(w.shape(), acc, w.device());
    if (rows == 0 && dw.defined()) device.fill(dw, 0);
  }
  const Tensor flat_labels = labels.view({rows});
  Tensor logits_buffer = Tensor::empty({std::min(chunk, rows), vocabulary}, acc, xv.device());
  for (std::int64_t first = 0; first < rows; first += chunk) {
    const std::int64_t n = std::min(chunk, rows - first);
    const Tensor xc = xv.slice(first, n);
    Tensor logits = logits_buffer.slice(0, n);
    Tensor loss = token_loss.slice(first, n);
    device.gemm(logits, xc, false, w, true, 0);
    device.cross_entropy(loss, logits, flat_labels.slice(first, n), gradients ? factor : 0);
    if (!gradients) continue;
    Tensor dlogits = logits;
    if (xv.dtype() != acc) {
      dlogits = Tensor::empty(logits.shape(), xv.dtype(), xv.device());
      device.cast(dlogits, logits);
    }
    if (dx.defined()) {
      Tensor dxc = dx.slice(first, n);
      device.gemm(dxc, dlogits, false, w, false, 0);
    }
    if (dw.defined()) device.gemm(dw, dlogits, true, xc, false, first == 0 ? 0 : 1);
  }
  Tensor total = Tensor::empty({1}, acc, xv.device());
  device.sum(total, token_loss);
  device.scale(total, factor);

  Variable loss =
      record("linear_cross_entropy", {x, head}, total, [dx, dw](std::span<const Tensor> dloss) {
        return std::vector<Tensor>{dx.defined() ? scaled_by(dx, dloss[0]) : dx,
                                   dw.defined() ? scaled_by(dw, dloss[0]) : dw};
      });
  return {loss, token_loss};
}

}  // namespace moe::ops
