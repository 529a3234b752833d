// SPDX-License-Identifier: Apache-2.0
#include "nn/attention.h"

#include <cmath>
#include <numbers>

#include "ops/linear.h"

namespace moe {
namespace {

/// Inverse frequency of pair j, after scaling (Hugging Face's "linear" and "llama3" rules).
double inverse_frequency(const ModelConfig& c, std::int64_t j) {
  const double f = std::pow(c.rope_theta, -2.0 * double(j) / double(c.head_dim));
  const RopeScaling& s = c.rope_scaling;
  if (s.kind == RopeScaling::Kind::none) return f;
  if (s.kind == RopeScaling::Kind::linear) return f / s.factor;
  const double wavelength = 2 * std::numbers::pi / f;
  const double original = double(s.original_max_position);
  if (wavelength < original / s.high_freq_factor) return f;
  if (wavelength > original / s.low_freq_factor) return f / s.factor;
  const double smooth =
      (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * f / s.factor + smooth * f;
}

}  // namespace

ops::RopeTables rope_tables(const ModelConfig& config, std::int64_t positions, DType type) {
  const std::int64_t half = config.head_dim / 2;
  ops::RopeTables t{Tensor::empty({positions, half}, type), Tensor::empty({positions, half}, type)};
  for (std::int64_t j = 0; j < half; ++j) {
    const double f = inverse_frequency(config, j);
    for_accumulator(type, [&]<class A>(A) {
      for (std::int64_t p = 0; p < positions; ++p) {
        t.cos.data<A>()[p * half + j] = A(std::cos(double(p) * f));
        t.sin.data<A>()[p * half + j] = A(std::sin(double(p) * f));
      }
    });
  }
  return t;
}

Attention::Attention(const ModelConfig& config, const ParameterStore& parameters,
                     std::int64_t layer)
    : config_(config),
      q_(parameters[str("layers.", layer, ".attention.q.weight")]),
      k_(parameters[str("layers.", layer, ".attention.k.weight")]),
      v_(parameters[str("layers.", layer, ".attention.v.weight")]),
      o_(parameters[str("layers.", layer, ".attention.o.weight")]) {}

Variable Attention::forward(const Variable& x, const ops::RopeTables& tables,
                            const ForwardContext& context, KvCache* cache) const {
  const std::int64_t n = context.length, first = context.first_position;
  const Variable q = ops::rope(ops::linear(x, q_), tables, config_.heads, n, first);
  Variable k = ops::rope(ops::linear(x, k_), tables, config_.kv_heads, n, first);
  Variable v = ops::linear(x, v_);
  std::int64_t seen = n;
  if (cache != nullptr) {
    MOE_CHECK(context.sequences == 1 && Tape::active() == nullptr && cache->length == first,
              "a key/value cache serves one sequence at a time, without gradients");
    seen = first + n;
    cache->keys.slice(first, n).copy_from(k.value);
    cache->values.slice(first, n).copy_from(v.value);
    cache->length = seen;
    k = Variable::constant(cache->keys.slice(0, seen));
    v = Variable::constant(cache->values.slice(0, seen));
  }
  return ops::linear(
      ops::attention(
          q, k, v, {context.sequences, n, seen, config_.heads, config_.kv_heads, config_.head_dim}),
      o_);
}

}  // namespace moe
