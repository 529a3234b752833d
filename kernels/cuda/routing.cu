// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/score_order.h"
#include "kernels/cuda/warp_rows.h"

namespace moe {
namespace {

/// Which of a token's k chosen experts is e: its slot, or -1.
__device__ __forceinline__ std::int64_t slot_of(const std::int32_t* chosen, std::int64_t k,
                                                std::int64_t e) {
  for (std::int64_t j = 0; j < k; ++j)
    if (chosen[j] == e) return j;
  return -1;
}

template <class A>
struct Scored {
  A score;
  std::int32_t index;  // -1: none
};

/// Whether a comes before b: the greater score, then the lower index; none comes last.
template <class A>
__device__ __forceinline__ bool before(const Scored<A>& a, const Scored<A>& b) {
  if (a.index < 0 || b.index < 0) return a.index >= 0;
  return comes_before(a.score, a.index, b.score, b.index);
}

/// A warp per token. Each of the m rounds takes the first entry after the one taken before, so that
/// nothing but that one is remembered. Bytes moved: the scores and the results once (the scores of
/// later rounds come from the L1 cache).
template <class A>
__global__ void __launch_bounds__(kThreads)
    topk_kernel(A* values, std::int32_t* indices, const A* scores, const std::uint8_t* valid,
                std::int64_t tokens, std::int64_t experts, std::int64_t m) {
  each_row(tokens, [&](std::int64_t t) {
    const bool skip = valid != nullptr && valid[t] == 0;
    Scored<A> last{A(0), -1};
    for (std::int64_t j = 0; j < m; ++j) {
      Scored<A> best{A(0), -1};
      if (!skip) {
        each_entry(experts, [&](std::int64_t e) {
          const Scored<A> candidate{scores[t * experts + e], std::int32_t(e)};
          if ((j == 0 || before(last, candidate)) && before(candidate, best)) best = candidate;
        });
#pragma unroll
        for (int distance = kWarp / 2; distance > 0; distance /= 2) {
          const Scored<A> other{__shfl_xor_sync(kAllLanes, best.score, distance),
                                __shfl_xor_sync(kAllLanes, best.index, distance)};
          if (before(other, best)) best = other;
        }
      }
      if (lane_index() == 0) {
        values[t * m + j] = best.score;
        indices[t * m + j] = best.index;
      }
      last = best;
    }
  });
}

/// Bytes moved: twice those of y.
__global__ void __launch_bounds__(kThreads)
    leading_columns_kernel(std::int32_t* y, const std::int32_t* x, std::int64_t size,
                           std::int64_t cols, std::int64_t stride) {
  each_element(size, [=](std::int64_t i) { y[i] = x[i / cols * stride + i % cols]; });
}

/// A warp per row. Bytes moved: x and p once; x comes from the L1 cache after its first pass.
template <class A>
__global__ void __launch_bounds__(kThreads)
    softmax_forward_kernel(A* p, const A* logits, std::int64_t rows, std::int64_t cols) {
  each_row(rows, [&](std::int64_t row) {
    const A* x = logits + row * cols;
    const ExpSum<A> all = exp_sum(x, cols);
    const A factor = A(1) / all.sum;
    each_entry(cols, [&](std::int64_t e) { p[row * cols + e] = exp(x[e] - all.largest) * factor; });
  });
}

/// A warp per row. Bytes moved: dp, p and dlogits once.
template <class A>
__global__ void __launch_bounds__(kThreads)
    softmax_backward_kernel(A* dlogits, const A* dp, const A* p, std::int64_t rows,
                            std::int64_t cols) {
  each_row(rows, [&](std::int64_t row) {
    const A *d = dp + row * cols, *q = p + row * cols;
    const A mean = row_sum<A>(cols, [&](std::int64_t e) { return d[e] * q[e]; });
    each_entry(cols, [&](std::int64_t e) { dlogits[row * cols + e] = q[e] * (d[e] - mean); });
  });
}

/// A warp per token. Bytes moved: indices and weights once, and the chosen logits or all.
template <class A, RouterWeights form>
__global__ void __launch_bounds__(kThreads)
    router_weights_forward_kernel(A* weights, const A* logits, const std::int32_t* indices,
                                  std::int64_t tokens, std::int64_t experts, std::int64_t k) {
  each_row(tokens, [&](std::int64_t t) {
    const A* x = logits + t * experts;
    const std::int32_t* chosen = indices + t * k;
    ExpSum<A> base;
    if constexpr (form == RouterWeights::softmax_of_all) {
      base = exp_sum(x, experts);
    } else {
      base.largest = row_max<A>(k, [&](std::int64_t j) {
        return chosen[j] < 0 ? -std::numeric_limits<A>::infinity() : x[chosen[j]];
      });
      base.sum = row_sum<A>(k, [&](std::int64_t j) {
        return chosen[j] < 0 ? A(0) : exp(x[chosen[j]] - base.largest);
      });
    }
    each_entry(k, [&](std::int64_t j) {
      weights[t * k + j] = chosen[j] < 0 ? A(0) : exp(x[chosen[j]] - base.largest) / base.sum;
    });
  });
}

/// Both forms: dx_e = p_e ([e chosen] dw_e - sum_j dw_j w_j), p_e = w_e for a chosen e, and 0 for
/// the others of softmax_of_chosen. A warp per token. Bytes moved: dlogits once, the k chosen
/// weights, gradients and indices once, for softmax_of_all also the logits.
template <class A>
__global__ void __launch_bounds__(kThreads)
    router_weights_backward_kernel(A* dlogits, const A* dweights, const A* weights, const A* logits,
                                   const std::int32_t* indices, std::int64_t tokens,
                                   std::int64_t experts, std::int64_t k, RouterWeights form) {
  each_row(tokens, [&](std::int64_t t) {
    const A *x = logits + t * experts, *w = weights + t * k, *dw = dweights + t * k;
    const std::int32_t* chosen = indices + t * k;
    const A mean =
        row_sum<A>(k, [&](std::int64_t j) { return chosen[j] < 0 ? A(0) : dw[j] * w[j]; });
    bool any = false;
    for (std::int64_t j = 0; j < k; ++j) any = any || chosen[j] >= 0;
    const bool others = any && form == RouterWeights::softmax_of_all;
    ExpSum<A> all{A(0), A(1)};
    if (others) all = exp_sum(x, experts);
    const A factor = -mean / all.sum;
    each_entry(experts, [&](std::int64_t e) {
      const std::int64_t j = slot_of(chosen, k, e);
      const A other = others ? exp(x[e] - all.largest) * factor : A(0);
      dlogits[t * experts + e] = j < 0 ? other : w[j] * (dw[j] - mean);
    });
  });
}

/// Bytes moved: dense written once, weights and indices read once (from the L1 cache for every
/// expert but the first).
template <class A>
__global__ void __launch_bounds__(kThreads)
    scatter_columns_kernel(A* dense, const A* weights, const std::int32_t* indices,
                           std::int64_t tokens, std::int64_t experts, std::int64_t k) {
  each_row(tokens, [&](std::int64_t t) {
    each_entry(experts, [&](std::int64_t e) {
      const std::int64_t j = slot_of(indices + t * k, k, e);
      dense[t * experts + e] = j < 0 ? A(0) : weights[t * k + j];
    });
  });
}

/// Bytes moved: weights and indices once, one sector of 32 bytes of `dense` per entry.
template <class A>
__global__ void __launch_bounds__(kThreads)
    gather_columns_kernel(A* weights, const A* dense, const std::int32_t* indices,
                          std::int64_t size, std::int64_t experts, std::int64_t k) {
  each_element(size, [=](std::int64_t i) {
    weights[i] = indices[i] < 0 ? A(0) : dense[i / k * experts + indices[i]];
  });
}

}  // namespace

void CudaBackend::topk(Tensor& values, Tensor& indices, const Tensor& scores, const Tensor& valid) {
  const std::int64_t tokens = scores.rows(), experts = scores.cols(), m = values.cols();
  if (values.size() == 0) return;
  for_accumulator(scores.dtype(), [&]<class A>(A) {
    launch(topk_kernel<A>, blocks_for(tokens, kWarps), kThreads, 0, stream_, values.data<A>(),
           indices.data<std::int32_t>(), scores.data<A>(), flags_of(valid), tokens, experts, m);
  });
}

void CudaBackend::leading_columns(Tensor& y, const Tensor& x) {
  if (y.size() == 0) return;
  launch(leading_columns_kernel, blocks_for(y.size()), kThreads, 0, stream_, y.data<std::int32_t>(),
         x.data<std::int32_t>(), y.size(), y.cols(), x.cols());
}

void CudaBackend::softmax_forward(Tensor& p, const Tensor& logits) {
  if (p.size() == 0) return;
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    launch(softmax_forward_kernel<A>, blocks_for(p.rows(), kWarps), kThreads, 0, stream_,
           p.data<A>(), logits.data<A>(), p.rows(), p.cols());
  });
}

void CudaBackend::softmax_backward(Tensor& dlogits, const Tensor& dp, const Tensor& p) {
  if (p.size() == 0) return;
  for_accumulator(p.dtype(), [&]<class A>(A) {
    launch(softmax_backward_kernel<A>, blocks_for(p.rows(), kWarps), kThreads, 0, stream_,
           dlogits.data<A>(), dp.data<A>(), p.data<A>(), p.rows(), p.cols());
  });
}

void CudaBackend::router_weights_forward(Tensor& weights, const Tensor& logits,
                                         const Tensor& indices, RouterWeights form) {
  const std::int64_t tokens = logits.rows(), experts = logits.cols(), k = indices.cols();
  if (weights.size() == 0) return;
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    const auto kernel = form == RouterWeights::softmax_of_all
                            ? router_weights_forward_kernel<A, RouterWeights::softmax_of_all>
                            : router_weights_forward_kernel<A, RouterWeights::softmax_of_chosen>;
    launch(kernel, blocks_for(tokens, kWarps), kThreads, 0, stream_, weights.data<A>(),
           logits.data<A>(), indices.data<std::int32_t>(), tokens, experts, k);
  });
}

void CudaBackend::router_weights_backward(Tensor& dlogits, const Tensor& dweights,
                                          const Tensor& weights, const Tensor& logits,
                                          const Tensor& indices, RouterWeights form) {
  const std::int64_t tokens = logits.rows(), experts = logits.cols(), k = indices.cols();
  if (dlogits.size() == 0) return;
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    launch(router_weights_backward_kernel<A>, blocks_for(tokens, kWarps), kThreads, 0, stream_,
           dlogits.data<A>(), dweights.data<A>(), weights.data<A>(), logits.data<A>(),
           indices.data<std::int32_t>(), tokens, experts, k, form);
  });
}

void CudaBackend::scatter_columns(Tensor& dense, const Tensor& weights, const Tensor& indices) {
  const std::int64_t tokens = dense.rows(), experts = dense.cols(), k = indices.cols();
  if (dense.size() == 0) return;
  for_accumulator(dense.dtype(), [&]<class A>(A) {
    launch(scatter_columns_kernel<A>, blocks_for(tokens, kWarps), kThreads, 0, stream_,
           dense.data<A>(), weights.data<A>(), indices.data<std::int32_t>(), tokens, experts, k);
  });
}

void CudaBackend::gather_columns(Tensor& weights, const Tensor& dense, const Tensor& indices) {
  if (weights.size() == 0) return;
  for_accumulator(dense.dtype(), [&]<class A>(A) {
    launch(gather_columns_kernel<A>, blocks_for(weights.size()), kThreads, 0, stream_,
           weights.data<A>(), dense.data<A>(), indices.data<std::int32_t>(), weights.size(),
           dense.cols(), indices.cols());
  });
}

}  // namespace moe
