// SPDX-License-Identifier: Apache-2.0
#include "ops/loss.h"

#include <algorithm>

#include "kernels/backend.h"
#include "ops/scalar.h"

namespace moe::ops {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{32} << 20;  // of logits

void require_suits(const Taught& taught, const Tensor& x, const Tensor& head) {
  const Tensor &tx = taught.x, &th = taught.head;
  MOE_CHECK(tx.rows() == x.rows() && tx.cols() == th.cols() && th.rows() == head.rows() &&
                tx.dtype() == x.dtype() && th.dtype() == x.dtype(),
            "distillation: a teacher's ", join(tx.shape()), " ", name(tx.dtype()), " and head ",
            join(th.shape()), " ", name(th.dtype()), " for ", join(x.shape()), " ", name(x.dtype()),
            " and head ", join(head.shape()));
  MOE_CHECK(taught.temperature > 0 && taught.weight >= 0 && taught.loss_weight >= 0 &&
                taught.weight + taught.loss_weight > 0,
            "distillation: temperature ", taught.temperature, ", weights ", taught.weight, " and ",
            taught.loss_weight);
}

}  // namespace

CrossEntropy linear_cross_entropy(const Variable& x, const Variable& head, const Tensor& labels,
                                  double factor, const Taught& taught) {
  const Tensor& xv = x.value;
  const Tensor& w = head.value;
  MOE_CHECK(labels.size() == xv.rows(), "cross entropy: ", labels.size(), " labels for ", xv.rows(),
            " rows");
  MOE_CHECK(w.cols() == xv.cols() && w.dtype() == xv.dtype(), "cross entropy: head ",
            join(w.shape()), " ", name(w.dtype()), " for ", join(xv.shape()), " ",
            name(xv.dtype()));
  const bool has_teacher = taught.x.defined();
  if (has_teacher) require_suits(taught, xv, w);
  Backend& device = backend(xv.device());
  const DType acc = accumulator(xv.dtype());
  const bool gradients =
      Tape::active() != nullptr && (x.wants_gradient() || head.wants_gradient()) && factor != 0;

  const std::int64_t rows = xv.rows(), vocabulary = w.rows();
  const std::int64_t row_bytes = vocabulary * std::int64_t(size_of(acc));
  const std::int64_t chunk =
      std::clamp<std::int64_t>(kChunkBytes / row_bytes, 16, std::max<std::int64_t>(rows, 16));
  Tensor token_loss = Tensor::empty({rows}, acc, xv.device()), token_divergence;
  Tensor dx, dw;
  if (gradients) {
    if (x.wants_gradient()) dx = empty_like(xv);
    if (head.wants_gradient()) dw = Tensor::empty(w.shape(), acc, w.device());
    if (rows == 0 && dw.defined()) device.fill(dw, 0);
  }
  const Tensor flat_labels = labels.view({rows});
  Tensor logits_buffer = Tensor::empty({std::min(chunk, rows), vocabulary}, acc, xv.device());
  Tensor teacher_buffer;
  if (has_teacher) {
    token_divergence = empty_like(token_loss);
    teacher_buffer = empty_like(logits_buffer);
  }
  const DistillationStep step{taught.temperature, gradients ? factor * taught.loss_weight : 0,
                              gradients ? factor * taught.weight : 0};
  for (std::int64_t first = 0; first < rows; first += chunk) {
    const std::int64_t n = std::min(chunk, rows - first);
    const Tensor xc = xv.slice(first, n);
    Tensor logits = logits_buffer.slice(0, n);
    Tensor loss = token_loss.slice(first, n);
    device.gemm(logits, xc, false, w, true, 0);
    const Tensor label = flat_labels.slice(first, n);
    if (has_teacher) {
      Tensor teacher = teacher_buffer.slice(0, n), divergence = token_divergence.slice(first, n);
      device.gemm(teacher, taught.x.slice(first, n), false, taught.head, true, 0);
      device.distillation(loss, divergence, logits, teacher, label, step);
    } else {
      device.cross_entropy(loss, logits, label, gradients ? factor : 0);
    }
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
  device.scale(total, factor * (has_teacher ? taught.loss_weight : 1));
  if (has_teacher) {
    Tensor divergence = empty_like(total);
    device.sum(divergence, token_divergence);
    device.scale(divergence, factor * taught.weight * taught.temperature * taught.temperature);
    device.add_into(total, divergence);
  }

  Variable loss =
      record("linear_cross_entropy", {x, head}, total, [dx, dw](std::span<const Tensor> dloss) {
        return std::vector<Tensor>{dx.defined() ? scaled_by(dx, dloss[0]) : dx,
                                   dw.defined() ? scaled_by(dw, dloss[0]) : dw};
      });
  return {loss, token_loss, token_divergence};
}

}  // namespace moe::ops
