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
      layer_(layer),
      q_(parameters[str("layers.", layer, ".attention.q.weight")]),
      k_(parameters[str("layers.", layer, ".attention.k.weight")]),
      v_(parameters[str("layers.", layer, ".attention.v.weight")]),
      o_(parameters[str("layers.", layer, ".attention.o.weight")]) {}

Variable Attention::forward(const Variable& x, const ops::RopeTables& tables,
                            const ForwardContext& context, KvCaches caches) const {
  const std::int64_t n = context.length;
  const Variable q = ops::linear(x, q_), k = ops::linear(x, k_), v = ops::linear(x, v_);
  if (!caches.empty())
    return ops::linear(
        Variable::constant(attend_cached(q.value, k.value, v.value, tables, n, caches)), o_);
  const Tensor& starts = context.document_starts;
  return ops::linear(
      ops::attention(ops::rope(q, tables, context.positions, config_.heads, n, 0),
                     ops::rope(k, tables, context.positions, config_.kv_heads, n, 0), v, starts,
                     {context.sequences, n, n, config_.heads, config_.kv_heads, config_.head_dim}),
      o_);
}

Tensor Attention::attend_cached(const Tensor& q, const Tensor& k, const Tensor& v,
                                const ops::RopeTables& tables, std::int64_t length,
                                KvCaches caches) const {
  MOE_CHECK(Tape::active() == nullptr, "a key/value cache serves no gradients");
  Tensor out = empty_like(q);
  for (std::size_t s = 0; s < caches.size(); ++s) {
    KvRows& rows = caches[s]->layers[std::size_t(layer_)].front();
    const std::int64_t first = caches[s]->length, seen = first + length;
    const auto own = [&](const Tensor& t) {
      return Variable::constant(t.slice(std::int64_t(s) * length, length));
    };
    const auto turned = [&](const Tensor& t, std::int64_t heads) {
      return ops::rope(own(t), tables, {}, heads, length, first);
    };
    rows.append(turned(k, config_.kv_heads).value, own(v).value);
    out.slice(std::int64_t(s) * length, length)
        .copy_from(
            ops::attention(turned(q, config_.heads), Variable::constant(rows.keys()),
                           Variable::constant(rows.values()), {},
                           {1, length, seen, config_.heads, config_.kv_heads, config_.head_dim})
                .value);
  }
  return out;
}

}  // namespace moe
