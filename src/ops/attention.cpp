// SPDX-License-Identifier: Apache-2.0
#include "ops/attention.h"

namespace moe::ops {

Variable rope(const Variable& x, const RopeTables& tables, const Tensor& positions,
              std::int64_t heads, std::int64_t length, std::int64_t first_position) {
  MOE_CHECK(x.value.cols() == heads * tables.cos.cols() * 2, "rope: ", x.value.cols(),
            " columns for ", heads, " heads of ", tables.cos.cols() * 2);
  MOE_CHECK(first_position + length <= tables.cos.rows(), "rope: position ",
            first_position + length - 1, " beyond the model's ", tables.cos.rows());
  MOE_CHECK(!positions.defined() || positions.size() == x.value.rows(), "rope: ", x.value.rows(),
            " rows, positions of ", positions.size());
  Backend& device = backend(x.value.device());
  Tensor y = empty_like(x.value);
  device.rope(y, x.value, tables.cos, tables.sin, positions, heads, length, first_position, false);
  return record(
      "rope", {x}, y,
      [&device, tables, positions, heads, length, first_position](std::span<const Tensor> dy) {
        Tensor dx = empty_like(dy[0]);
        device.rope(dx, dy[0], tables.cos, tables.sin, positions, heads, length, first_position,
                    true);
        return std::vector<Tensor>{dx};
      });
}

Variable attention(const Variable& q, const Variable& k, const Variable& v, const Tensor& starts,
                   const AttentionShape& s) {
  MOE_CHECK(q.value.rows() == s.batch * s.q_length && q.value.cols() == s.heads * s.head_dim,
            "attention: queries ", join(q.value.shape()));
  for (const Tensor& t : {k.value, v.value})
    MOE_CHECK(t.rows() == s.batch * s.kv_length && t.cols() == s.kv_heads * s.head_dim,
              "attention: keys or values ", join(t.shape()));
  MOE_CHECK(s.heads % s.kv_heads == 0 && s.kv_length >= s.q_length);
  MOE_CHECK(
      !starts.defined() || (starts.size() == s.batch * s.q_length && s.q_length == s.kv_length),
      "attention: documents of ", starts.size(), " tokens for ", s.batch, " sequences of ",
      s.q_length, " queries and ", s.kv_length, " keys");
  const Tensor qv = q.value, kv = k.value, vv = v.value;
  Backend& device = backend(qv.device());
  Tensor out = empty_like(qv);
  Tensor lse = Tensor::empty({s.batch, s.heads, s.q_length}, accumulator(qv.dtype()), qv.device());
  device.attention_forward(out, lse, qv, kv, vv, starts, s);
  return record("attention", {q, k, v}, out,
                [&device, qv, kv, vv, out, lse, starts, s](std::span<const Tensor> dout) {
                  Tensor dq = empty_like(qv), dk = empty_like(kv), dv = empty_like(vv);
                  device.attention_backward(dq, dk, dv, dout[0], qv, kv, vv, out, lse, starts, s);
                  return std::vector<Tensor>{dq, dk, dv};
                });
}

Variable span_attention(const Variable& q, const Variable& k, const Variable& v,
                        const AttentionSpans& spans, const SpanAttentionShape& s) {
  const Tensor qv = q.value, kv = k.value, vv = v.value;
  MOE_CHECK(s.kv_heads > 0 && s.heads % s.kv_heads == 0, "span attention: ", s.heads,
            " heads over ", s.kv_heads);
  MOE_CHECK(qv.cols() == s.heads * s.head_dim, "span attention: queries ", join(qv.shape()));
  for (const Tensor& t : {kv, vv})
    MOE_CHECK(t.rows() == kv.rows() && t.cols() == s.kv_heads * s.head_dim,
              "span attention: keys or values ", join(t.shape()));
  MOE_CHECK(spans.begin.size() == qv.rows() && spans.end.size() == qv.rows(),
            "span attention: ", qv.rows(), " rows, spans of ", spans.begin.size(), " and ",
            spans.end.size());
  MOE_CHECK(spans.query_offsets.size() == s.groups * s.segments + 1 &&
                spans.key_offsets.size() == s.segments + 1,
            "span attention: ", spans.query_offsets.size(), " and ", spans.key_offsets.size(),
            " offsets for ", s.groups, " groups of ", s.segments, " segments");
  Backend& device = backend(qv.device());
  Tensor out = empty_like(qv);
  Tensor lse = Tensor::empty({qv.rows(), s.heads}, accumulator(qv.dtype()), qv.device());
  device.span_attention_forward(out, lse, qv, kv, vv, spans, s);
  return record("span_attention", {q, k, v}, out,
                [&device, qv, kv, vv, out, lse, spans, s](std::span<const Tensor> dout) {
                  Tensor dq = empty_like(qv), dk = empty_like(kv), dv = empty_like(vv);
                  device.span_attention_backward(dq, dk, dv, dout[0], qv, kv, vv, out, lse, spans,
                                                 s);
                  return std::vector<Tensor>{dq, dk, dv};
                });
}

}  // namespace moe::ops
