// SPDX-License-Identifier: Apache-2.0
// Attention of routed tokens against dense attention of the same sequences: forward and backward of
// the kernels, f32. Each line takes turns with the dense pass, so a busy neighbour meets both.
//
//   bench_attention [LENGTH...]
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench_support.h"
#include "ops/attention_spans.h"
#include "support/routed_rows.h"

namespace moe {
namespace {

constexpr std::int64_t kHeads = 8, kKvHeads = 2, kHeadDim = 64, kExperts = 4;
constexpr int kTurns = 7;

Tensor random_rows(std::int64_t rows, std::int64_t heads, std::uint64_t seed) {
  Tensor t = Tensor::empty({rows, heads * kHeadDim}, DType::f32);
  cpu_backend().normal(t, std::vector{Philox(seed, RandomPurpose::test)});
  return t;
}

// Inputs and outputs of both passes.
struct Tensors {
  Tensors(std::int64_t rows, std::int64_t heads, std::int64_t keys, std::int64_t kv_heads)
      : q(random_rows(rows, heads, 1)),
        k(random_rows(keys, kv_heads, 2)),
        v(random_rows(keys, kv_heads, 3)),
        dout(random_rows(rows, heads, 4)),
        lse(Tensor::empty({rows, heads}, DType::f32)) {}
  Tensor q, k, v, dout, lse, out = empty_like(q), dq = empty_like(q), dk = empty_like(k),
                             dv = empty_like(v);
};

std::function<void()> dense(std::int64_t batch, std::int64_t length) {
  const AttentionShape shape = {batch, length, length, kHeads, kKvHeads, kHeadDim};
  return [shape, t = Tensors(batch * length, kHeads, batch * length, kKvHeads)]() mutable {
    cpu_backend().attention_forward(t.out, t.lse, t.q, t.k, t.v, {}, shape);
    cpu_backend().attention_backward(t.dq, t.dk, t.dv, t.dout, t.q, t.k, t.v, t.out, t.lse, {},
                                     shape);
  };
}

// An expert has one query head of each key/value head, or one key/value head with its queries.
std::function<void()> routed(std::int64_t batch, std::int64_t length, std::int64_t k,
                             bool over_rows) {
  const Tensor indices = test::random_choices(batch * length, kExperts, k, 0, -1, 7);
  const ops::Permutation sorted = ops::sort_by_expert(indices, kExperts);
  const ops::RoutedRows rows = over_rows ? ops::rows_over_rows(indices, sorted, batch, {})
                                         : ops::rows_over_tokens(indices, sorted, batch, {});
  const std::int64_t kv_heads = over_rows ? 1 : kKvHeads, count = batch * length * k;
  const SpanAttentionShape shape = {rows.groups, rows.segments, kHeads / kExperts, kv_heads,
                                    kHeadDim};
  return [shape, spans = rows.spans,
          t = Tensors(count, shape.heads, over_rows ? count : batch * length, kv_heads)]() mutable {
    cpu_backend().span_attention_forward(t.out, t.lse, t.q, t.k, t.v, spans, shape);
    cpu_backend().span_attention_backward(t.dq, t.dk, t.dv, t.dout, t.q, t.k, t.v, t.out, t.lse,
                                          spans, shape);
  };
}

void measure(std::int64_t length) {
  const std::int64_t batch = std::max<std::int64_t>(1, 2048 / length);
  const std::function<void()> baseline = dense(batch, length);
  for (const bool over_rows : {false, true})
    for (const std::int64_t k : {kExperts / 4, kExperts / 2, kExperts}) {
      const std::function<void()> work = routed(batch, length, k, over_rows);
      std::vector<double> times, ratios;
      for (int turn = -1; turn < kTurns; ++turn) {  // the first of all warms up
        const double dense_time = seconds_of(baseline), time = seconds_of(work);
        if (turn < 0) continue;
        times.push_back(time);
        ratios.push_back(time / dense_time);
      }
      std::printf("%-8s k %2ld of %ld  length %5ld x %2ld  %9.2f ms  %.2f of dense\n",
                  over_rows ? "heads" : "queries", long(k), long(kExperts), long(length),
                  long(batch), 1e3 * median(times), median(ratios));
      std::fflush(stdout);
    }
}

}  // namespace
}  // namespace moe

int main(int count, char** arguments) {
  std::vector<std::int64_t> lengths;
  for (int i = 1; i < count; ++i) lengths.push_back(std::atol(arguments[i]));
  if (lengths.empty()) lengths = {64, 512, 2048, 8192};
  for (const std::int64_t length : lengths) moe::measure(length);
}
