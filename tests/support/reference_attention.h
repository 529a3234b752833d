// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/backend.h"

/// Causal grouped-query attention and its gradients as plain loops in f64, whole score rows at a
/// time. Layouts are those of Backend::attention_forward; `starts` holds its starts, empty: all 0.
namespace moe::reference {

struct Attention {
  std::vector<double> out, lse, dq, dk, dv;
};

inline Attention attention(const std::vector<double>& q, const std::vector<double>& k,
                           const std::vector<double>& v, const std::vector<double>& dout,
                           const AttentionShape& s, const std::vector<double>& starts = {}) {
  Attention result{std::vector<double>(q.size()),
                   std::vector<double>(static_cast<std::size_t>(s.batch * s.heads * s.q_length)),
                   std::vector<double>(q.size()), std::vector<double>(k.size()),
                   std::vector<double>(v.size())};
  const std::int64_t d = s.head_dim, group = s.heads / s.kv_heads;
  const double scale = 1 / std::sqrt(double(d));
  for (std::int64_t b = 0; b < s.batch; ++b)
    for (std::int64_t h = 0; h < s.heads; ++h)
      for (std::int64_t i = 0; i < s.q_length; ++i) {
        const auto row = std::size_t(((b * s.q_length + i) * s.heads + h) * d);
        const auto key = [&](std::int64_t j) {
          return std::size_t(((b * s.kv_length + j) * s.kv_heads + h / group) * d);
        };
        const std::int64_t visible = i + s.kv_length - s.q_length + 1;
        const std::int64_t begin =
            starts.empty() ? 0 : std::int64_t(starts[std::size_t(b * s.q_length + i)]);
        std::vector<double> p(static_cast<std::size_t>(visible)), dp(p.size());
        double largest = -std::numeric_limits<double>::infinity(), sum = 0;
        for (std::int64_t j = begin; j < visible; ++j) {
          double score = 0;
          for (std::int64_t e = 0; e < d; ++e)
            score += q[row + std::size_t(e)] * k[key(j) + std::size_t(e)];
          p[std::size_t(j)] = score * scale;
          largest = std::max(largest, score * scale);
        }
        for (std::int64_t j = begin; j < visible; ++j)
          sum += p[std::size_t(j)] = std::exp(p[std::size_t(j)] - largest);
        for (double& x : p) x /= sum;
        result.lse[std::size_t((b * s.heads + h) * s.q_length + i)] = largest + std::log(sum);
        double mean = 0;
        for (std::int64_t j = begin; j < visible; ++j) {
          for (std::int64_t e = 0; e < d; ++e) {
            const auto at = std::size_t(e);
            result.out[row + at] += p[std::size_t(j)] * v[key(j) + at];
            dp[std::size_t(j)] += dout[row + at] * v[key(j) + at];
            result.dv[key(j) + at] += p[std::size_t(j)] * dout[row + at];
          }
          mean += p[std::size_t(j)] * dp[std::size_t(j)];
        }
        for (std::int64_t j = begin; j < visible; ++j) {
          const double ds = scale * p[std::size_t(j)] * (dp[std::size_t(j)] - mean);
          for (std::int64_t e = 0; e < d; ++e) {
            const auto at = std::size_t(e);
            result.dq[row + at] += ds * k[key(j) + at];
            result.dk[key(j) + at] += ds * q[row + at];
          }
        }
      }
  return result;
}

}  // namespace moe::reference
