// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/vectorize.h"

namespace moe {
namespace {

const std::uint8_t* flags(const Tensor& valid) {
  return valid.defined() ? valid.data<std::uint8_t>() : nullptr;
}

/// NaN is above every number, so that it is chosen and seen, not hidden.
template <class A>
bool above(A a, A b) {
  return a > b || (std::isnan(a) && !std::isnan(b));
}

/// The m first of x[0, n) in descending order, lowest index first among equals.
template <class A>
void select_largest(A* values, std::int32_t* indices, std::int64_t m, const A* x, std::int64_t n) {
  std::int64_t held = 0;
  for (std::int64_t e = 0; e < n; ++e) {
    if (held == m && x[e] <= values[m - 1]) continue;
    std::int64_t slot = held;
    while (slot > 0 && above(x[e], values[slot - 1])) --slot;
    if (slot == m) continue;
    held = std::min(held + 1, m);
    for (std::int64_t j = held - 1; j > slot; --j) {
      values[j] = values[j - 1];
      indices[j] = indices[j - 1];
    }
    values[slot] = x[e];
    indices[slot] = std::int32_t(e);
  }
}

/// w[j] = softmax over the entries of `logits` that `index` names; 0 where it is -1.
template <class A>
void softmax_of_chosen(A* w, const A* logits, const std::int32_t* index, std::int64_t k) {
  A largest = -std::numeric_limits<A>::infinity(), sum = 0;
  for (std::int64_t j = 0; j < k; ++j)
    if (index[j] >= 0) largest = std::max(largest, logits[index[j]]);
  for (std::int64_t j = 0; j < k; ++j)
    sum += w[j] = index[j] >= 0 ? exp_of(logits[index[j]] - largest) : A(0);
  for (std::int64_t j = 0; j < k; ++j) w[j] = index[j] >= 0 ? w[j] / sum : A(0);
}

}  // namespace

void CpuBackend::topk(Tensor& values, Tensor& indices, const Tensor& scores, const Tensor& valid) {
  const std::int64_t tokens = scores.rows(), experts = scores.cols(), m = values.cols();
  for_accumulator(scores.dtype(), [&]<class A>(A) {
    A* v = values.data<A>();
    std::int32_t* index = indices.data<std::int32_t>();
    const A* x = scores.data<A>();
    const std::uint8_t* ok = flags(valid);
    parallel_for(tokens, row_grain(experts), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        if (ok != nullptr && ok[t] == 0) {
          std::fill_n(v + t * m, m, A(0));
          std::fill_n(index + t * m, m, -1);
        } else {
          select_largest(v + t * m, index + t * m, m, x + t * experts, experts);
        }
      }
    });
  });
}

void CpuBackend::leading_columns(Tensor& y, const Tensor& x) {
  const std::int64_t n = y.cols(), stride = x.cols();
  std::int32_t* out = y.data<std::int32_t>();
  const std::int32_t* in = x.data<std::int32_t>();
  parallel_for(y.rows(), row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) std::copy_n(in + i * stride, n, out + i * n);
  });
}

void CpuBackend::drop_over_capacity(Tensor& kept, const Tensor& indices, const Tensor& weights,
                                    const Tensor& capacities) {
  const std::int64_t segments = capacities.size();
  const std::int64_t length = segments == 0 ? 0 : indices.size() / segments;
  for_accumulator(weights.dtype(), [&]<class A>(A) {
    std::int32_t* out = kept.data<std::int32_t>();
    const std::int32_t* index = indices.data<std::int32_t>();
    const A* w = weights.data<A>();
    const std::int64_t* capacity = capacities.data<std::int64_t>();
    parallel_for(segments, row_grain(length), [=](std::int64_t begin, std::int64_t end) {
      std::vector<std::int64_t> order;  // the segment's pairs by expert, heaviest first
      for (std::int64_t s = begin; s < end; ++s) {
        order.clear();
        for (std::int64_t i = s * length; i < (s + 1) * length; ++i) {
          out[i] = -1;
          if (index[i] >= 0) order.push_back(i);
        }
        std::sort(order.begin(), order.end(), [=](std::int64_t a, std::int64_t b) {
          if (index[a] != index[b]) return index[a] < index[b];
          if (above(w[a], w[b]) || above(w[b], w[a])) return above(w[a], w[b]);
          return a < b;
        });
        std::int64_t taken = 0;
        for (std::size_t i = 0; i < order.size(); ++i) {
          const std::int64_t pair = order[i];
          taken = i > 0 && index[order[i - 1]] == index[pair] ? taken + 1 : 0;
          if (taken < capacity[s]) out[pair] = index[pair];
        }
      }
    });
  });
}

void CpuBackend::softmax_forward(Tensor& p, const Tensor& logits) {
  const std::int64_t rows = logits.rows(), cols = logits.cols();
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    A* pp = p.data<A>();
    const A* px = logits.data<A>();
    parallel_for(rows, row_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        A* pi = pp + i * cols;
        const A* xi = px + i * cols;
        const A largest = max_of(xi, cols);
        const double sum =
            sum_of(0, cols, [=](std::int64_t j) { return pi[j] = exp_of(xi[j] - largest); });
        const A factor = A(1 / sum);
        each(0, cols, [=](std::int64_t j) { pi[j] *= factor; });
      }
    });
  });
}

void CpuBackend::softmax_backward(Tensor& dlogits, const Tensor& dp, const Tensor& p) {
  const std::int64_t rows = p.rows(), cols = p.cols();
  for_accumulator(p.dtype(), [&]<class A>(A) {
    A* out = dlogits.data<A>();
    const A *pd = dp.data<A>(), *pp = p.data<A>();
    parallel_for(rows, row_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const A *d = pd + i * cols, *q = pp + i * cols;
        A* o = out + i * cols;
        const A mean = A(sum_of(0, cols, [=](std::int64_t j) { return d[j] * q[j]; }));
        each(0, cols, [=](std::int64_t j) { o[j] = q[j] * (d[j] - mean); });
      }
    });
  });
}

void CpuBackend::router_weights_forward(Tensor& weights, const Tensor& logits,
                                        const Tensor& indices, RouterWeights form) {
  const std::int64_t tokens = logits.rows(), experts = logits.cols(), k = indices.cols();
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    A* pw = weights.data<A>();
    const A* px = logits.data<A>();
    const std::int32_t* index = indices.data<std::int32_t>();
    parallel_for(tokens, row_grain(experts), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const A* x = px + t * experts;
        const std::int32_t* chosen = index + t * k;
        A* w = pw + t * k;
        if (form == RouterWeights::softmax_of_chosen) {
          softmax_of_chosen(w, x, chosen, k);
          continue;
        }
        const ExpSum<A> all = exp_sum(x, experts);
        for (std::int64_t j = 0; j < k; ++j)
          w[j] = chosen[j] < 0 ? A(0) : A(double(exp_of(x[chosen[j]] - all.largest)) / all.sum);
      }
    });
  });
}

void CpuBackend::router_weights_backward(Tensor& dlogits, const Tensor& dweights,
                                         const Tensor& weights, const Tensor& logits,
                                         const Tensor& indices, RouterWeights form) {
  const std::int64_t tokens = logits.rows(), experts = logits.cols(), k = indices.cols();
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    A* out = dlogits.data<A>();
    const A *pdw = dweights.data<A>(), *pw = weights.data<A>(), *px = logits.data<A>();
    const std::int32_t* index = indices.data<std::int32_t>();
    parallel_for(tokens, row_grain(experts), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const A *x = px + t * experts, *w = pw + t * k, *dw = pdw + t * k;
        const std::int32_t* chosen = index + t * k;
        A* dx = out + t * experts;
        // Both forms: dx_e = p_e ([e chosen] dw_e - sum_j dw_j w_j), p_e = w_e for a chosen e.
        A mean = 0;
        bool any = false;
        for (std::int64_t j = 0; j < k; ++j) {
          if (chosen[j] < 0) continue;
          mean += dw[j] * w[j];
          any = true;
        }
        if (form == RouterWeights::softmax_of_all && any) {
          const ExpSum<A> all = exp_sum(x, experts);
          const A factor = A(-double(mean) / all.sum), largest = all.largest;
          each(0, experts, [=](std::int64_t e) { dx[e] = exp_of(x[e] - largest) * factor; });
        } else {
          std::fill_n(dx, experts, A(0));
        }
        for (std::int64_t j = 0; j < k; ++j)
          if (chosen[j] >= 0) dx[chosen[j]] = w[j] * (dw[j] - mean);
      }
    });
  });
}

void CpuBackend::scatter_columns(Tensor& dense, const Tensor& weights, const Tensor& indices) {
  const std::int64_t tokens = dense.rows(), experts = dense.cols(), k = indices.cols();
  for_accumulator(dense.dtype(), [&]<class A>(A) {
    A* out = dense.data<A>();
    const A* w = weights.data<A>();
    const std::int32_t* index = indices.data<std::int32_t>();
    parallel_for(tokens, row_grain(experts), [=](std::int64_t begin, std::int64_t end) {
      std::fill(out + begin * experts, out + end * experts, A(0));
      for (std::int64_t s = begin * k; s < end * k; ++s)
        if (index[s] >= 0) out[s / k * experts + index[s]] = w[s];
    });
  });
}

void CpuBackend::gather_columns(Tensor& weights, const Tensor& dense, const Tensor& indices) {
  const std::int64_t tokens = dense.rows(), experts = dense.cols(), k = indices.cols();
  for_accumulator(dense.dtype(), [&]<class A>(A) {
    A* w = weights.data<A>();
    const A* in = dense.data<A>();
    const std::int32_t* index = indices.data<std::int32_t>();
    parallel_for(tokens, row_grain(k), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t s = begin * k; s < end * k; ++s)
        w[s] = index[s] < 0 ? A(0) : in[s / k * experts + index[s]];
    });
  });
}

void CpuBackend::count_experts(Tensor& counts, const Tensor& indices) {
  const std::int64_t segments = counts.rows(), experts = counts.cols();
  const std::int64_t length = segments == 0 ? 0 : indices.size() / segments;
  std::int64_t* out = counts.data<std::int64_t>();
  const std::int32_t* index = indices.data<std::int32_t>();
  parallel_for(segments, row_grain(length), [=](std::int64_t begin, std::int64_t end) {
    std::fill(out + begin * experts, out + end * experts, 0);
    for (std::int64_t s = begin; s < end; ++s)
      for (std::int64_t i = s * length; i < (s + 1) * length; ++i)
        if (index[i] >= 0) ++out[s * experts + index[i]];
  });
}

void CpuBackend::segment_sum(Tensor& sums, const Tensor& x, const Tensor& valid) {
  const std::int64_t segments = sums.rows(), cols = sums.cols();
  const std::int64_t length = segments == 0 ? 0 : x.rows() / segments;
  for_accumulator(x.dtype(), [&]<class A>(A) {
    A* out = sums.data<A>();
    const A* px = x.data<A>();
    const std::uint8_t* ok = flags(valid);
    parallel_for(segments, row_grain(length * cols), [=](std::int64_t begin, std::int64_t end) {
      std::vector<double> total(static_cast<std::size_t>(cols));
      double* sum = total.data();
      for (std::int64_t s = begin; s < end; ++s) {
        std::fill(total.begin(), total.end(), 0.0);
        for (std::int64_t t = s * length; t < (s + 1) * length; ++t) {
          const A* row = px + t * cols;
          if (ok == nullptr || ok[t] != 0)
            each(0, cols, [=](std::int64_t e) { sum[e] += double(row[e]); });
        }
        for (std::int64_t e = 0; e < cols; ++e) out[s * cols + e] = A(sum[e]);
      }
    });
  });
}

void CpuBackend::segment_broadcast(Tensor& dx, const Tensor& dsums, const Tensor& valid) {
  const std::int64_t segments = dsums.rows(), cols = dsums.cols(), tokens = dx.rows();
  const std::int64_t length = segments == 0 ? 0 : tokens / segments;
  for_accumulator(dx.dtype(), [&]<class A>(A) {
    A* out = dx.data<A>();
    const A* in = dsums.data<A>();
    const std::uint8_t* ok = flags(valid);
    parallel_for(tokens, row_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        if (ok == nullptr || ok[t] != 0)
          std::copy_n(in + t / length * cols, cols, out + t * cols);
        else
          std::fill_n(out + t * cols, cols, A(0));
      }
    });
  });
}

}  // namespace moe
