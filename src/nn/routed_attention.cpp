// SPDX-License-Identifier: Apache-2.0
#include "nn/routed_attention.h"

#include <numeric>

#include "kernels/backend.h"
#include "ops/attention_spans.h"
#include "ops/grouped_linear.h"
#include "ops/linear.h"

namespace moe {
namespace {

/// i64[sequences, E]: (token, slot) pairs of each sequence and expert.
Tensor pairs_by_sequence(const Tensor& indices, std::int64_t sequences, std::int64_t experts) {
  Tensor counts = Tensor::empty({sequences, experts}, DType::i64, indices.device());
  backend(indices.device()).count_experts(counts, indices);
  return counts;
}

}  // namespace

RoutedAttention::RoutedAttention(const ModelConfig& config, const ParameterStore& parameters,
                                 std::int64_t layer, Communicator& world)
    : layer_(layer),
      kind_(config.attention_moe.kind),
      experts_(config.attention_moe.experts),
      heads_(config.expert_heads()),
      kv_heads_(config.expert_kv_heads()),
      head_dim_(config.head_dim),
      router_(config, parameters, Router::Of::attention, layer, world) {
  const std::string prefix = str("layers.", layer, ".attention.");
  const std::string keys = prefix + (own_keys() ? "experts." : "");
  q_ = parameters[prefix + "experts.q.weight"];
  k_ = parameters[keys + "k.weight"];
  v_ = parameters[keys + "v.weight"];
  o_ = parameters[prefix + "experts.o.weight"];
}

SublayerOutput RoutedAttention::forward(const Variable& x, const ops::RopeTables& tables,
                                        const ForwardContext& context, KvCaches caches) const {
  const RouterOutput routed = router_.forward(x, context);
  Rows rows{ops::sort_by_expert(routed.indices, experts_), {0}, routed.indices, {}, {}, {}};
  std::partial_sum(rows.sorted.counts.begin(), rows.sorted.counts.end(),
                   std::back_inserter(rows.offsets));
  const Variable sent = ops::dispatch(x, rows.sorted);
  const auto project = [&](const Variable& weight) {
    return own_keys() ? ops::grouped_up(sent, weight, rows.offsets) : ops::linear(x, weight);
  };
  rows.q = ops::grouped_up(sent, q_, rows.offsets);
  rows.k = project(k_);
  rows.v = project(v_);
  const Variable heads =
      caches.empty() ? attend(rows, tables, context) : attend_cached(rows, tables, context, caches);
  const Variable out = ops::grouped_down(heads, o_, rows.offsets);
  return {ops::combine(out, routed.weights, rows.sorted, router_.score_scale(context)),
          routed.loss};
}

Variable RoutedAttention::turned(const Variable& x, const ops::RopeTables& tables,
                                 const Tensor& positions) const {
  return ops::rope(x, tables, positions, x.value.cols() / head_dim_, 1, 0);
}

Variable RoutedAttention::attend(const Rows& rows, const ops::RopeTables& tables,
                                 const ForwardContext& context) const {
  const auto routed = [&](auto&& rows_over) {
    return rows_over(rows.indices, rows.sorted, context.sequences, context.document_starts);
  };
  const ops::RoutedRows r =
      own_keys() ? routed(ops::rows_over_rows) : routed(ops::rows_over_tokens);
  const Variable k =
      own_keys() ? turned(rows.k, tables, r.positions)
                 : ops::rope(rows.k, tables, context.positions, kv_heads_, context.length, 0);
  return ops::span_attention(turned(rows.q, tables, r.positions), k, rows.v, r.spans,
                             {r.groups, r.segments, heads_, kv_heads_, head_dim_});
}

Variable RoutedAttention::attend_cached(const Rows& rows, const ops::RopeTables& tables,
                                        const ForwardContext& context, KvCaches caches) const {
  MOE_CHECK(Tape::active() == nullptr, "a key/value cache serves no gradients");
  const Device where = rows.indices.device();
  const std::int64_t n = rows.sorted.row_to_slot.size(), length = context.length;
  const Tensor slots = rows.sorted.row_to_slot.to(Device::cpu);
  std::vector<std::int32_t> places;  // of the rows, in their sequences
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t token = slots.data<std::int32_t>()[r] / rows.indices.cols();
    places.push_back(std::int32_t(caches[std::size_t(token / length)]->length + token % length));
  }
  const Tensor positions = Tensor::of<std::int32_t>({n}, places).to(where);
  const Variable q = turned(rows.q, tables, positions);
  Variable k;
  if (own_keys()) {
    k = turned(rows.k, tables, positions);
  } else {
    for (std::size_t s = 0; s < caches.size(); ++s) {
      const auto own = [&](const Variable& x) {
        return Variable::constant(x.value.slice(std::int64_t(s) * length, length));
      };
      caches[s]->layers[std::size_t(layer_)].front().append(
          ops::rope(own(rows.k), tables, {}, kv_heads_, length, caches[s]->length).value,
          own(rows.v).value);
    }
  }

  const Tensor counts =
      pairs_by_sequence(rows.indices, context.sequences, experts_).to(Device::cpu);
  Tensor out = empty_like(q.value);
  std::int64_t first = 0;
  for (std::int64_t e = 0; e < experts_; ++e) {
    for (std::size_t s = 0; s < caches.size(); ++s) {
      const std::int64_t count = counts.data<std::int64_t>()[std::int64_t(s) * experts_ + e];
      if (count == 0) continue;
      KvRows& seen = caches[s]->layers[std::size_t(layer_)][own_keys() ? std::size_t(e) : 0];
      if (own_keys()) seen.append(k.value.slice(first, count), rows.v.value.slice(first, count));
      AttentionSpans spans{Tensor::zeros({count}, DType::i32, where), {}, {}, {}};
      std::vector<std::int32_t> ends;
      for (std::int64_t r = 0; r < count; ++r)
        ends.push_back(own_keys() ? std::int32_t(seen.length() - count + r + 1)
                                  : places[std::size_t(first + r)] + 1);
      spans.end = Tensor::of<std::int32_t>({count}, ends).to(where);
      const auto all_of = [&](std::int64_t all) {
        return Tensor::of<std::int32_t>({2}, {0, std::int32_t(all)}).to(where);
      };
      spans.query_offsets = all_of(count);
      spans.key_offsets = all_of(seen.length());
      const Variable part = ops::span_attention(
          Variable::constant(q.value.slice(first, count)), Variable::constant(seen.keys()),
          Variable::constant(seen.values()), spans, {1, 1, heads_, kv_heads_, head_dim_});
      out.slice(first, count).copy_from(part.value);
      first += count;
    }
  }
  return Variable::constant(out);
}

}  // namespace moe
