// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/warp_rows.h"

namespace moe {
namespace {

// ---- the smooth load ----------------------------------------------------------------------------

/// The thresholds of one token, by whether an expert is chosen.
template <class A>
struct Thresholds {
  A of_chosen, of_others;  // t(k+1), t(k)
  bool compatible;

  __device__ Thresholds(const A* top, std::int64_t m, bool v1)
      : of_chosen(top[m - 1]), of_others(top[m - 2]), compatible(v1) {}
  __device__ bool chosen(A clean, A noisy) const {
    return (compatible ? noisy - clean : noisy) > of_chosen;
  }
  __device__ A of(A clean, A noisy) const { return chosen(clean, noisy) ? of_chosen : of_others; }
};

template <class A>
__device__ __forceinline__ A normal_cdf(A x) {
  return A(0.5) * erfc(-x * A(0.70710678118654752440));
}
template <class A>
__device__ __forceinline__ A normal_density(A x) {
  return A(0.39894228040143267794) * exp(A(-0.5) * x * x);
}

/// A warp per token. Bytes moved: clean, noisy, sigma and load once.
template <class A>
__global__ void __launch_bounds__(kThreads)
    noisy_load_forward_kernel(A* load, const A* clean, const A* noisy, const A* sigma,
                              const A* top_values, const std::int32_t* top_indices,
                              std::int64_t tokens, std::int64_t experts, std::int64_t m,
                              bool compatible) {
  each_row(tokens, [&](std::int64_t t) {
    const bool routed = top_indices[t * m] >= 0;
    const Thresholds<A> limit(top_values + t * m, m, compatible);
    each_entry(experts, [&](std::int64_t e) {
      const std::int64_t i = t * experts + e;
      load[i] = routed ? normal_cdf((clean[i] - limit.of(clean[i], noisy[i])) / sigma[i]) : A(0);
    });
  });
}

/// A warp per token. Bytes moved: the four inputs and the three gradients once.
template <class A>
__global__ void __launch_bounds__(kThreads)
    noisy_load_backward_kernel(A* dclean, A* dnoisy, A* dsigma, const A* dload, const A* clean,
                               const A* noisy, const A* sigma, const A* top_values,
                               const std::int32_t* top_indices, std::int64_t tokens,
                               std::int64_t experts, std::int64_t m, bool compatible) {
  each_row(tokens, [&](std::int64_t t) {
    const std::int32_t* index = top_indices + t * m;
    const bool routed = index[0] >= 0;
    const Thresholds<A> limit(top_values + t * m, m, compatible);
    A by_chosen = 0, by_others = 0;  // the load's derivative by minus either threshold
    each_entry(experts, [&](std::int64_t e) {
      const std::int64_t i = t * experts + e;
      A by_clean = 0, by_sigma = 0;
      if (routed) {
        const A z = (clean[i] - limit.of(clean[i], noisy[i])) / sigma[i];
        by_clean = dload[i] * normal_density(z) / sigma[i];
        by_sigma = -by_clean * z;
        (limit.chosen(clean[i], noisy[i]) ? by_chosen : by_others) += by_clean;
      }
      dclean[i] = by_clean;
      dsigma[i] = by_sigma;
    });
    by_chosen = warp_sum(by_chosen);
    by_others = warp_sum(by_others);
    each_entry(experts, [&](std::int64_t e) {
      A gradient = 0;
      if (routed && e == index[m - 1]) gradient = -by_chosen;
      if (routed && e == index[m - 2]) gradient = -by_others;
      dnoisy[t * experts + e] = gradient;
    });
  });
}

// ---- losses: the sum of one number per row, by warps, then by blocks, all in double
// --------------

/// Blocks that share the rows of a loss: a limit that no device's size enters, so that every device
/// adds in the same order.
constexpr std::int64_t kMaxLossBlocks = 1024;

/// partial[b] = the sum of term(row) over the rows of block b, in which a whole warp computes each
/// term. Bytes moved: what `term` reads.
template <class Term>
__global__ void __launch_bounds__(kThreads)
    add_terms_kernel(double* partial, std::int64_t rows, Term term) {
  double total = 0;
  each_row(rows, [&](std::int64_t row) { total += term(row); });
  total = block_sum(lane_index() == 0 ? total : 0.0);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

/// loss[0] = factor * sum of partial[0, n). One block.
template <class A>
__global__ void __launch_bounds__(kThreads)
    add_partial_terms_kernel(A* loss, const double* partial, std::int64_t n, double factor) {
  double total = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) total += partial[i];
  total = block_sum(total);
  if (threadIdx.x == 0) loss[0] = A(factor * total);
}

/// loss[0] = factor * sum of term(row) over the rows.
template <class A, class Term>
void sum_of_terms(Tensor& loss, std::int64_t rows, const Term& term, double factor,
                  cudaStream_t stream) {
  const std::int64_t blocks = std::min(ceil_div(rows, kWarps), kMaxLossBlocks);
  Tensor partial = Tensor::empty({blocks}, DType::f64, loss.device());
  if (blocks > 0)
    launch(add_terms_kernel<Term>, dim3(unsigned(blocks)), kThreads, 0, stream,
           partial.data<double>(), rows, term);
  launch(add_partial_terms_kernel<A>, 1, kThreads, 0, stream, loss.data<A>(),
         partial.data<double>(), blocks, factor);
}

/// Calls term.write_gradient(row) for every row, with a whole warp.
template <class Term>
__global__ void __launch_bounds__(kThreads) write_gradients_kernel(std::int64_t rows, Term term) {
  each_row(rows, [&](std::int64_t row) { term.write_gradient(row); });
}

template <class Term>
void write_gradients(std::int64_t rows, const Term& term, cudaStream_t stream) {
  if (rows > 0)
    launch(write_gradients_kernel<Term>, blocks_for(rows, kWarps), kThreads, 0, stream, rows, term);
}

/// Bytes moved: x once, the gradient once.
template <class A>
struct CvSquared {
  const A *x, *weights;
  std::int64_t experts;
  A* gradient;

  static constexpr double kTiny = 1e-10;  // of LLaMA-MoE v1, in the denominator
  struct Moments {
    double mean, variance;
  };
  __device__ Moments moments(const A* row) const {
    const double mean =
        row_sum<double>(experts, [&](std::int64_t e) { return double(row[e]); }) / double(experts);
    const double squares = row_sum<double>(
        experts, [&](std::int64_t e) { return (double(row[e]) - mean) * (double(row[e]) - mean); });
    return {mean, squares / double(experts - 1)};
  }
  __device__ double operator()(std::int64_t s) const {
    if (experts == 1) return 0;
    const Moments m = moments(x + s * experts);
    return double(weights[s]) * m.variance / (m.mean * m.mean + kTiny);
  }
  __device__ void write_gradient(std::int64_t s) const {
    const A* row = x + s * experts;
    double mean = 0, by_variance = 0, by_mean = 0;
    if (experts > 1) {
      const Moments m = moments(row);
      const double below = m.mean * m.mean + kTiny;
      mean = m.mean;
      by_variance = 2 / (double(experts - 1) * below);
      by_mean = 2 * m.mean * m.variance / (double(experts) * below * below);
    }
    each_entry(experts, [&](std::int64_t e) {
      gradient[s * experts + e] =
          A(double(weights[s]) * (by_variance * (double(row[e]) - mean) - by_mean));
    });
  }
};

/// Bytes moved: p and counts once, the gradient once.
template <class A>
struct SwitchLoss {
  const A* p;
  const std::int64_t* counts;
  const A* weights;
  std::int64_t experts;
  A* gradient;

  /// The factor of counts[s, e] in the derivative by p[s, e]; 0 without counts.
  __device__ double factor(std::int64_t s) const {
    const double all_counts =
        row_sum<double>(experts, [&](std::int64_t e) { return double(counts[s * experts + e]); });
    const double all_p =
        row_sum<double>(experts, [&](std::int64_t e) { return double(p[s * experts + e]); });
    return all_counts == 0 ? 0 : double(weights[s]) * double(experts) / all_counts / all_p;
  }
  __device__ double operator()(std::int64_t s) const {
    return factor(s) * row_sum<double>(experts, [&](std::int64_t e) {
             return double(counts[s * experts + e]) * double(p[s * experts + e]);
           });
  }
  __device__ void write_gradient(std::int64_t s) const {
    const double f = factor(s);
    each_entry(experts, [&](std::int64_t e) {
      gradient[s * experts + e] = A(f * double(counts[s * experts + e]));
    });
  }
};

/// Bytes moved: the logits once (their later passes come from the L1 cache), the gradient once.
template <class A>
struct ZLoss {
  const A* logits;
  const std::uint8_t* valid;
  std::int64_t experts;
  A factor;  // of the gradient
  A* gradient;

  __device__ bool skips(std::int64_t t) const { return valid != nullptr && valid[t] == 0; }
  __device__ double operator()(std::int64_t t) const {
    if (skips(t)) return 0;
    const ExpSum<A> row = exp_sum(logits + t * experts, experts);
    const double lse = double(row.largest + log(row.sum));
    return lse * lse;
  }
  __device__ void write_gradient(std::int64_t t) const {
    const A* x = logits + t * experts;
    ExpSum<A> row{A(0), A(1)};
    A by_row = 0;
    if (!skips(t)) {
      row = exp_sum(x, experts);
      by_row = A(2) * factor * (row.largest + log(row.sum)) / row.sum;
    }
    each_entry(experts, [&](std::int64_t e) {
      gradient[t * experts + e] = skips(t) ? A(0) : by_row * exp(x[e] - row.largest);
    });
  }
};

}  // namespace

void CudaBackend::noisy_load_forward(Tensor& load, const Tensor& clean, const Tensor& noisy,
                                     const Tensor& sigma, const Tensor& top_values,
                                     const Tensor& top_indices, bool compatible) {
  if (load.size() == 0) return;
  for_accumulator(clean.dtype(), [&]<class A>(A) {
    launch(noisy_load_forward_kernel<A>, blocks_for(clean.rows(), kWarps), kThreads, 0, stream_,
           load.data<A>(), clean.data<A>(), noisy.data<A>(), sigma.data<A>(), top_values.data<A>(),
           top_indices.data<std::int32_t>(), clean.rows(), clean.cols(), top_values.cols(),
           compatible);
  });
}

void CudaBackend::noisy_load_backward(Tensor& dclean, Tensor& dnoisy, Tensor& dsigma,
                                      const Tensor& dload, const Tensor& clean, const Tensor& noisy,
                                      const Tensor& sigma, const Tensor& top_values,
                                      const Tensor& top_indices, bool compatible) {
  if (clean.size() == 0) return;
  for_accumulator(clean.dtype(), [&]<class A>(A) {
    launch(noisy_load_backward_kernel<A>, blocks_for(clean.rows(), kWarps), kThreads, 0, stream_,
           dclean.data<A>(), dnoisy.data<A>(), dsigma.data<A>(), dload.data<A>(), clean.data<A>(),
           noisy.data<A>(), sigma.data<A>(), top_values.data<A>(), top_indices.data<std::int32_t>(),
           clean.rows(), clean.cols(), top_values.cols(), compatible);
  });
}

void CudaBackend::cv_squared_forward(Tensor& loss, const Tensor& x, const Tensor& segment_weights) {
  for_accumulator(x.dtype(), [&]<class A>(A) {
    const CvSquared<A> term{x.data<A>(), segment_weights.data<A>(), x.cols(), nullptr};
    sum_of_terms<A>(loss, x.rows(), term, 1, stream_);
  });
}

void CudaBackend::cv_squared_backward(Tensor& dx, const Tensor& x, const Tensor& segment_weights) {
  for_accumulator(x.dtype(), [&]<class A>(A) {
    const CvSquared<A> term{x.data<A>(), segment_weights.data<A>(), x.cols(), dx.data<A>()};
    write_gradients(x.rows(), term, stream_);
  });
}

void CudaBackend::switch_loss_forward(Tensor& loss, const Tensor& p, const Tensor& counts,
                                      const Tensor& segment_weights) {
  for_accumulator(p.dtype(), [&]<class A>(A) {
    const SwitchLoss<A> term{p.data<A>(), counts.data<std::int64_t>(), segment_weights.data<A>(),
                             p.cols(), nullptr};
    sum_of_terms<A>(loss, p.rows(), term, 1, stream_);
  });
}

void CudaBackend::switch_loss_backward(Tensor& dp, const Tensor& p, const Tensor& counts,
                                       const Tensor& segment_weights) {
  for_accumulator(p.dtype(), [&]<class A>(A) {
    const SwitchLoss<A> term{p.data<A>(), counts.data<std::int64_t>(), segment_weights.data<A>(),
                             p.cols(), dp.data<A>()};
    write_gradients(p.rows(), term, stream_);
  });
}

void CudaBackend::z_loss_forward(Tensor& loss, const Tensor& logits, const Tensor& valid,
                                 double factor) {
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    const ZLoss<A> term{logits.data<A>(), flags_of(valid), logits.cols(), A(factor), nullptr};
    sum_of_terms<A>(loss, logits.rows(), term, factor, stream_);
  });
}

void CudaBackend::z_loss_backward(Tensor& dlogits, const Tensor& logits, const Tensor& valid,
                                  double factor) {
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    const ZLoss<A> term{logits.data<A>(), flags_of(valid), logits.cols(), A(factor),
                        dlogits.data<A>()};
    write_gradients(logits.rows(), term, stream_);
  });
}

}  // namespace moe
