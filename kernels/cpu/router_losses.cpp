// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/vectorize.h"

namespace moe {
namespace {

/// The thresholds of one token, by whether an expert is chosen; 1 or 0 in place of a flag, which
/// the loops would not vectorise.
template <class A>
struct Thresholds {
  A of_chosen, of_others;  // t(k+1), t(k)
  A subtract_clean;

  Thresholds(const A* top, std::int64_t m, bool compatible)
      : of_chosen(top[m - 1]), of_others(top[m - 2]), subtract_clean(compatible ? A(1) : A(0)) {}
  MOE_INLINE bool chosen(A clean, A noisy) const {
    return noisy - subtract_clean * clean > of_chosen;
  }
  MOE_INLINE A of(A clean, A noisy) const { return chosen(clean, noisy) ? of_chosen : of_others; }
};

/// Mean and unbiased variance of a row of x, in double.
struct Moments {
  double mean, variance;
};
template <class A>
Moments moments(const A* x, std::int64_t n) {
  double sum = 0, squares = 0;
  for (std::int64_t e = 0; e < n; ++e) sum += double(x[e]);
  const double mean = sum / double(n);
  for (std::int64_t e = 0; e < n; ++e) squares += (double(x[e]) - mean) * (double(x[e]) - mean);
  return {mean, squares / double(n - 1)};
}
constexpr double kTiny = 1e-10;  // of LLaMA-MoE v1, in the denominator of CV^2

/// Per segment, the factor of counts[s, e] in the loss's derivative by p[s, e]; 0 without counts.
template <class A>
double switch_factor(const A* p, const std::int64_t* counts, double weight, std::int64_t experts) {
  double all_counts = 0, all_p = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    all_counts += double(counts[e]);
    all_p += double(p[e]);
  }
  return all_counts == 0 ? 0 : weight * double(experts) / all_counts / all_p;
}

}  // namespace

void CpuBackend::noisy_load_forward(Tensor& load, const Tensor& clean, const Tensor& noisy,
                                    const Tensor& sigma, const Tensor& top_values,
                                    const Tensor& top_indices, bool compatible) {
  const std::int64_t tokens = clean.rows(), experts = clean.cols(), m = top_values.cols();
  for_accumulator(clean.dtype(), [&]<class A>(A) {
    A* out = load.data<A>();
    const A *pc = clean.data<A>(), *pn = noisy.data<A>(), *ps = sigma.data<A>(),
            *top = top_values.data<A>();
    const std::int32_t* index = top_indices.data<std::int32_t>();
    parallel_for(tokens, row_grain(experts), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const A *c = pc + t * experts, *n = pn + t * experts, *s = ps + t * experts;
        A* l = out + t * experts;
        if (index[t * m] < 0) {
          std::fill_n(l, experts, A(0));
          continue;
        }
        const Thresholds<A> limit(top + t * m, m, compatible);
        each(0, experts,
             [=](std::int64_t e) { l[e] = normal_cdf((c[e] - limit.of(c[e], n[e])) / s[e]); });
      }
    });
  });
}

void CpuBackend::noisy_load_backward(Tensor& dclean, Tensor& dnoisy, Tensor& dsigma,
                                     const Tensor& dload, const Tensor& clean, const Tensor& noisy,
                                     const Tensor& sigma, const Tensor& top_values,
                                     const Tensor& top_indices, bool compatible) {
  const std::int64_t tokens = clean.rows(), experts = clean.cols(), m = top_values.cols();
  for_accumulator(clean.dtype(), [&]<class A>(A) {
    A *pdc = dclean.data<A>(), *pdn = dnoisy.data<A>(), *pds = dsigma.data<A>();
    const A *pdl = dload.data<A>(), *pc = clean.data<A>(), *pn = noisy.data<A>(),
            *ps = sigma.data<A>(), *top = top_values.data<A>();
    const std::int32_t* index = top_indices.data<std::int32_t>();
    parallel_for(tokens, row_grain(experts), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const A *dl = pdl + t * experts, *c = pc + t * experts, *n = pn + t * experts,
                *s = ps + t * experts;
        A *dc = pdc + t * experts, *dn = pdn + t * experts, *ds = pds + t * experts;
        std::fill_n(dn, experts, A(0));
        if (index[t * m] < 0) {
          std::fill_n(dc, experts, A(0));
          std::fill_n(ds, experts, A(0));
          continue;
        }
        const Thresholds<A> limit(top + t * m, m, compatible);
        const double all = sum_of(0, experts, [=](std::int64_t e) {
          const A z = (c[e] - limit.of(c[e], n[e])) / s[e];
          const A by_clean = dl[e] * normal_density(z) / s[e];
          dc[e] = by_clean;
          ds[e] = -by_clean * z;
          return by_clean;
        });
        const double by_chosen = sum_of(
            0, experts, [=](std::int64_t e) { return limit.chosen(c[e], n[e]) ? dc[e] : A(0); });
        dn[index[t * m + m - 1]] = A(-by_chosen);
        dn[index[t * m + m - 2]] = A(-(all - by_chosen));
      }
    });
  });
}

void CpuBackend::cv_squared_forward(Tensor& loss, const Tensor& x, const Tensor& segment_weights) {
  const std::int64_t experts = x.cols();
  for_accumulator(x.dtype(), [&]<class A>(A) {
    double total = 0;
    for (std::int64_t s = 0; s < x.rows() && experts > 1; ++s) {
      const Moments m = moments(x.data<A>() + s * experts, experts);
      total += double(segment_weights.data<A>()[s]) * m.variance / (m.mean * m.mean + kTiny);
    }
    loss.data<A>()[0] = A(total);
  });
}

void CpuBackend::cv_squared_backward(Tensor& dx, const Tensor& x, const Tensor& segment_weights) {
  const std::int64_t experts = x.cols();
  for_accumulator(x.dtype(), [&]<class A>(A) {
    for (std::int64_t s = 0; s < x.rows(); ++s) {
      const A* row = x.data<A>() + s * experts;
      A* out = dx.data<A>() + s * experts;
      if (experts == 1) {
        out[0] = 0;
        continue;
      }
      const Moments m = moments(row, experts);
      const double below = m.mean * m.mean + kTiny, weight = double(segment_weights.data<A>()[s]);
      const double by_variance = 2 / (double(experts - 1) * below);
      const double by_mean = 2 * m.mean * m.variance / (double(experts) * below * below);
      for (std::int64_t e = 0; e < experts; ++e)
        out[e] = A(weight * (by_variance * (double(row[e]) - m.mean) - by_mean));
    }
  });
}

void CpuBackend::switch_loss_forward(Tensor& loss, const Tensor& p, const Tensor& counts,
                                     const Tensor& segment_weights) {
  const std::int64_t experts = p.cols();
  for_accumulator(p.dtype(), [&]<class A>(A) {
    double total = 0;
    for (std::int64_t s = 0; s < p.rows(); ++s) {
      const A* ps = p.data<A>() + s * experts;
      const std::int64_t* cs = counts.data<std::int64_t>() + s * experts;
      const double factor = switch_factor(ps, cs, double(segment_weights.data<A>()[s]), experts);
      double sum = 0;
      for (std::int64_t e = 0; e < experts; ++e) sum += double(cs[e]) * double(ps[e]);
      total += factor * sum;
    }
    loss.data<A>()[0] = A(total);
  });
}

void CpuBackend::switch_loss_backward(Tensor& dp, const Tensor& p, const Tensor& counts,
                                      const Tensor& segment_weights) {
  const std::int64_t experts = p.cols();
  for_accumulator(p.dtype(), [&]<class A>(A) {
    for (std::int64_t s = 0; s < p.rows(); ++s) {
      const A* ps = p.data<A>() + s * experts;
      const std::int64_t* cs = counts.data<std::int64_t>() + s * experts;
      const double factor = switch_factor(ps, cs, double(segment_weights.data<A>()[s]), experts);
      for (std::int64_t e = 0; e < experts; ++e)
        dp.data<A>()[s * experts + e] = A(factor * double(cs[e]));
    }
  });
}

void CpuBackend::z_loss_forward(Tensor& loss, const Tensor& logits, const Tensor& valid,
                                double factor) {
  const std::int64_t tokens = logits.rows(), experts = logits.cols();
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    const A* x = logits.data<A>();
    const std::uint8_t* ok = valid.defined() ? valid.data<std::uint8_t>() : nullptr;
    const auto squares = [=](std::int64_t begin, std::int64_t end) {
      double sum = 0;
      for (std::int64_t t = begin; t < end; ++t) {
        if (ok != nullptr && ok[t] == 0) continue;
        const ExpSum<A> row = exp_sum(x + t * experts, experts);
        const double lse = double(row.largest) + std::log(row.sum);
        sum += lse * lse;
      }
      return sum;
    };
    loss.data<A>()[0] = A(factor * parallel_sum(tokens, row_grain(experts), squares));
  });
}

void CpuBackend::z_loss_backward(Tensor& dlogits, const Tensor& logits, const Tensor& valid,
                                 double factor) {
  const std::int64_t tokens = logits.rows(), experts = logits.cols();
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    A* out = dlogits.data<A>();
    const A* in = logits.data<A>();
    const std::uint8_t* ok = valid.defined() ? valid.data<std::uint8_t>() : nullptr;
    parallel_for(tokens, row_grain(experts), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const A* x = in + t * experts;
        A* dx = out + t * experts;
        if (ok != nullptr && ok[t] == 0) {
          std::fill_n(dx, experts, A(0));
          continue;
        }
        const ExpSum<A> row = exp_sum(x, experts);
        const A largest = row.largest;
        const double lse = double(largest) + std::log(row.sum);
        const A by_row = A(2 * factor * lse / row.sum);
        each(0, experts, [=](std::int64_t e) { dx[e] = by_row * exp_of(x[e] - largest); });
      }
    });
  });
}

}  // namespace moe
