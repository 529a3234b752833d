// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/backend.h"
#include "support/reference_attention.h"
#include "support/tensor_tools.h"

/// Attention over spans and its gradients as plain loops in f64, one row and head at a time.
namespace moe::reference {

/// Layouts are those of Backend::span_attention_forward. The runs and segments do not matter here.
inline Attention span_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                const Tensor& dout, const AttentionSpans& spans,
                                const SpanAttentionShape& s) {
  const auto qs = test::to_doubles(q), ks = test::to_doubles(k), vs = test::to_doubles(v),
             gradients = test::to_doubles(dout);
  const std::int64_t rows = q.rows(), d = s.head_dim;
  const double scale = 1 / std::sqrt(double(d));
  Attention result{std::vector<double>(qs.size()), std::vector<double>(std::size_t(rows * s.heads)),
                   std::vector<double>(qs.size()), std::vector<double>(ks.size()),
                   std::vector<double>(vs.size())};
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t h = 0; h < s.heads; ++h) {
      const std::int64_t begin = spans.begin.data<std::int32_t>()[r],
                         count = spans.end.data<std::int32_t>()[r] - begin;
      const auto query = std::size_t((r * s.heads + h) * d);
      const auto key = [&](std::size_t j) {
        return std::size_t(((begin + std::int64_t(j)) * s.kv_heads + h / (s.heads / s.kv_heads)) *
                           d);
      };
      const auto dot = [&](const std::vector<double>& a, const std::vector<double>& b,
                           std::size_t at) {
        double sum = 0;
        for (std::size_t e = 0; e < std::size_t(d); ++e) sum += a[query + e] * b[at + e];
        return sum;
      };
      std::vector<double> p(static_cast<std::size_t>(count)), dp(p.size());
      double largest = -std::numeric_limits<double>::infinity(), sum = 0, mean = 0;
      for (std::size_t j = 0; j < p.size(); ++j)
        largest = std::max(largest, p[j] = scale * dot(qs, ks, key(j)));
      for (double& x : p) sum += x = std::exp(x - largest);
      result.lse[std::size_t(r * s.heads + h)] = largest + std::log(sum);
      for (std::size_t j = 0; j < p.size(); ++j) {
        p[j] /= sum;
        dp[j] = dot(gradients, vs, key(j));
        mean += p[j] * dp[j];
      }
      for (std::size_t j = 0; j < p.size(); ++j)
        for (std::size_t e = 0; e < std::size_t(d); ++e) {
          const double dscore = scale * p[j] * (dp[j] - mean);
          result.out[query + e] += p[j] * vs[key(j) + e];
          result.dv[key(j) + e] += p[j] * gradients[query + e];
          result.dq[query + e] += dscore * ks[key(j) + e];
          result.dk[key(j) + e] += dscore * qs[query + e];
        }
    }
  return result;
}

}  // namespace moe::reference
