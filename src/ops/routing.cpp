// SPDX-License-Identifier: Apache-2.0
#include "ops/routing.h"

#include <algorithm>

#include "autograd/recompute.h"
#include "ops/scalar.h"

namespace moe::ops {
namespace {

Tensor scalar_like(const Tensor& x) { return Tensor::empty({1}, x.dtype(), x.device()); }

}  // namespace

Routing choose_experts(const Tensor& scores, std::int64_t k, const Tensor& valid) {
  const std::int64_t tokens = scores.rows(), experts = scores.cols();
  MOE_CHECK(k >= 1 && k <= experts, "top-", k, " of ", experts, " experts");
  MOE_CHECK(!valid.defined() || valid.size() == tokens);
  Backend& device = backend(scores.device());
  const std::int64_t m = std::min(k + 1, experts);
  Routing r;
  r.k = k;
  r.top_values = Tensor::empty({tokens, m}, scores.dtype(), scores.device());
  // In a recomputed block the values are taken again, for the indices of the first run: gathering
  // them keeps the two in step whatever rounding did.
  bool chosen_now = false;
  r.top_indices = decide_once([&] {
    Tensor indices = Tensor::empty({tokens, m}, DType::i32, scores.device());
    device.topk(r.top_values, indices, scores, valid);
    chosen_now = true;
    return indices;
  });
  if (!chosen_now) device.gather_columns(r.top_values, scores, r.top_indices);
  r.indices = r.top_indices;
  if (m != k) {
    r.indices = Tensor::empty({tokens, k}, DType::i32, scores.device());
    device.leading_columns(r.indices, r.top_indices);
  }
  return r;
}

Tensor drop_over_capacity(const Tensor& indices, const Tensor& weights, const Tensor& capacities) {
  MOE_CHECK(weights.shape() == indices.shape() && capacities.size() > 0 &&
            indices.rows() % capacities.size() == 0);
  return decide_once([&] {
    Tensor kept = empty_like(indices);
    backend(indices.device()).drop_over_capacity(kept, indices, weights, capacities);
    return kept;
  });
}

Variable router_weights(const Variable& logits, const Tensor& indices, RouterWeights form) {
  const Tensor l = logits.value;
  Backend& device = backend(l.device());
  Tensor w = Tensor::empty(indices.shape(), l.dtype(), l.device());
  device.router_weights_forward(w, l, indices, form);
  return record("router_weights", {logits}, w,
                [&device, l, indices, form, w](std::span<const Tensor> dw) {
                  Tensor dl = empty_like(l);
                  device.router_weights_backward(dl, dw[0], w, l, indices, form);
                  return std::vector<Tensor>{dl};
                });
}

Variable unit_weights(const Variable& probabilities, const Variable& scale, const Tensor& indices) {
  const Tensor p = probabilities.value;
  const std::int64_t experts = scale.value.size();
  MOE_CHECK(p.shape() == indices.shape(), "unit_weights: ", join(p.shape()), " probabilities for ",
            join(indices.shape()), " experts");
  Backend& device = backend(p.device());
  Tensor one = Tensor::empty({1, experts}, p.dtype(), p.device());
  device.cast(one, scale.value.view({1, experts}));
  Tensor rows = Tensor::empty({p.rows(), experts}, p.dtype(), p.device());
  device.segment_broadcast(rows, one, {});
  Tensor s = empty_like(p), w = empty_like(p);
  device.gather_columns(s, rows, indices);
  device.fill(w, 1);
  device.multiply_add(w, w, p, s);
  return record("unit_weights", {probabilities, scale}, w,
                [&device, p, s, indices, experts](std::span<const Tensor> dw) {
                  Tensor dp = empty_like(p), ds = empty_like(p);
                  device.multiply(dp, dw[0], s);
                  device.multiply(ds, dw[0], p);
                  Tensor dense = Tensor::empty({p.rows(), experts}, p.dtype(), p.device());
                  device.scatter_columns(dense, ds, indices);
                  Tensor dscale = Tensor::empty({1, experts}, p.dtype(), p.device());
                  device.segment_sum(dscale, dense, {});
                  return std::vector<Tensor>{dp, dscale.view({experts})};
                });
}

Variable weighted_bias(const Variable& weights, const Tensor& indices, const Variable& bias,
                       double factor, DType out) {
  const Tensor& w = weights.value;
  Backend& device = backend(w.device());
  const auto as = [&device](const Tensor& x, DType type) {
    if (x.dtype() == type) return x;
    Tensor y = Tensor::empty(x.shape(), type, x.device());
    device.cast(y, x);
    return y;
  };
  const DType acc = w.dtype();
  const Tensor b = as(bias.value, acc);
  const Tensor dense = Tensor::empty({w.rows(), b.rows()}, acc, w.device());
  Tensor scattered = dense;
  device.scatter_columns(scattered, w, indices);
  device.scale(scattered, factor);
  Tensor y = Tensor::empty({w.rows(), b.cols()}, acc, w.device());
  device.gemm(y, dense, false, b, false, 0);
  return record("weighted_bias", {weights, bias}, as(y, out),
                [&device, as, acc, b, dense, indices, factor](std::span<const Tensor> dy) {
                  const Tensor g = as(dy[0], acc);
                  Tensor ddense = empty_like(dense), db = empty_like(b);
                  device.gemm(ddense, g, false, b, true, 0);
                  device.gemm(db, dense, true, g, false, 0);
                  Tensor dw = Tensor::empty(indices.shape(), acc, indices.device());
                  device.gather_columns(dw, ddense, indices);
                  device.scale(dw, factor);
                  return std::vector<Tensor>{dw, db};
                });
}

Variable softmax(const Variable& logits) {
  Tensor p = empty_like(logits.value);
  Backend& device = backend(p.device());
  device.softmax_forward(p, logits.value);
  return record("softmax", {logits}, p, [&device, p](std::span<const Tensor> dp) {
    Tensor dl = empty_like(p);
    device.softmax_backward(dl, dp[0], p);
    return std::vector<Tensor>{dl};
  });
}

Variable scatter_columns(const Variable& weights, const Tensor& indices, std::int64_t experts) {
  const Tensor& w = weights.value;
  MOE_CHECK(w.shape() == indices.shape());
  Backend& device = backend(w.device());
  Tensor dense = Tensor::empty({w.rows(), experts}, w.dtype(), w.device());
  device.scatter_columns(dense, w, indices);
  return record("scatter_columns", {weights}, dense,
                [&device, indices, type = w.dtype()](std::span<const Tensor> ddense) {
                  Tensor dw = Tensor::empty(indices.shape(), type, indices.device());
                  device.gather_columns(dw, ddense[0], indices);
                  return std::vector<Tensor>{dw};
                });
}

Variable segment_sum(const Variable& x, std::int64_t segments, const Tensor& valid) {
  const Tensor& xv = x.value;
  MOE_CHECK(segments > 0 && xv.rows() % segments == 0, xv.rows(), " tokens in ", segments,
            " segments");
  Backend& device = backend(xv.device());
  Tensor sums = Tensor::empty({segments, xv.cols()}, xv.dtype(), xv.device());
  device.segment_sum(sums, xv, valid);
  return record("segment_sum", {x}, sums,
                [&device, valid, shape = xv.shape()](std::span<const Tensor> dsums) {
                  Tensor dx = Tensor::empty(shape, dsums[0].dtype(), dsums[0].device());
                  device.segment_broadcast(dx, dsums[0], valid);
                  return std::vector<Tensor>{dx};
                });
}

Variable noisy_load(const Variable& clean, const Variable& noisy, const Variable& sigma,
                    const Routing& routing, bool v1_formula) {
  const Tensor c = clean.value, n = noisy.value, s = sigma.value;
  MOE_CHECK(routing.k < c.cols(), "the smooth load needs k < E");
  Backend& device = backend(c.device());
  Tensor load = empty_like(c);
  device.noisy_load_forward(load, c, n, s, routing.top_values, routing.top_indices, v1_formula);
  return record("noisy_load", {clean, noisy, sigma}, load,
                [&device, c, n, s, routing, v1_formula](std::span<const Tensor> dload) {
                  Tensor dc = empty_like(c), dn = empty_like(n), ds = empty_like(s);
                  device.noisy_load_backward(dc, dn, ds, dload[0], c, n, s, routing.top_values,
                                             routing.top_indices, v1_formula);
                  return std::vector<Tensor>{dc, dn, ds};
                });
}

Variable cv_squared(const Variable& x, const Tensor& segment_weights) {
  const Tensor xv = x.value;
  MOE_CHECK(segment_weights.size() == xv.rows());
  Backend& device = backend(xv.device());
  Tensor loss = scalar_like(xv);
  device.cv_squared_forward(loss, xv, segment_weights);
  return record("cv_squared", {x}, loss,
                [&device, xv, segment_weights](std::span<const Tensor> dloss) {
                  Tensor dx = empty_like(xv);
                  device.cv_squared_backward(dx, xv, segment_weights);
                  return std::vector<Tensor>{scaled_by(dx, dloss[0])};
                });
}

Variable switch_loss(const Variable& p, const Tensor& counts, const Tensor& segment_weights) {
  const Tensor pv = p.value;
  MOE_CHECK(counts.shape() == pv.shape() && segment_weights.size() == pv.rows());
  Backend& device = backend(pv.device());
  Tensor loss = scalar_like(pv);
  device.switch_loss_forward(loss, pv, counts, segment_weights);
  return record("switch_loss", {p}, loss,
                [&device, pv, counts, segment_weights](std::span<const Tensor> dloss) {
                  Tensor dp = empty_like(pv);
                  device.switch_loss_backward(dp, pv, counts, segment_weights);
                  return std::vector<Tensor>{scaled_by(dp, dloss[0])};
                });
}

Variable z_loss(const Variable& logits, const Tensor& valid, double factor) {
  const Tensor l = logits.value;
  Backend& device = backend(l.device());
  Tensor loss = scalar_like(l);
  device.z_loss_forward(loss, l, valid, factor);
  return record("z_loss", {logits}, loss,
                [&device, l, valid, factor](std::span<const Tensor> dloss) {
                  Tensor dl = empty_like(l);
                  device.z_loss_backward(dl, l, valid, factor);
                  return std::vector<Tensor>{scaled_by(dl, dloss[0])};
                });
}

}  // namespace moe::ops
