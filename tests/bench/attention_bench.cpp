// SPDX-License-Identifier: Apache-2.0
// Attention of routed tokens against dense attention of the same sequences: forward and backward,
// f32. Each takes turns with the dense pass, so a busy neighbour meets both: the medians of the
// ratios are what to read.
//
//   bench_attention [LENGTH...]
#include <cstdio>
#include <cstdlib>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "bench_support.h"
#include "layer_pass.h"
#include "nn/attention.h"
#include "nn/routed_attention.h"
#include "ops/attention_spans.h"
#include "support/routed_rows.h"

namespace moe {
namespace {

constexpr std::int64_t kHeads = 8, kKvHeads = 2, kHeadDim = 64, kExperts = 4;

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

struct Contender {
  std::string name;
  std::function<void()> work;
};

// Each in turn with the dense pass, after a turn that warms both up.
void compare(const std::string& what, int turns, const std::function<void()>& baseline,
             const std::vector<Contender>& contenders) {
  std::printf("%s\n", what.c_str());
  baseline();
  for (const Contender& c : contenders) {
    c.work();
    std::vector<double> times, ratios;
    for (int turn = 0; turn < turns; ++turn) {
      const double dense_time = seconds_of(baseline);
      times.push_back(seconds_of(c.work));
      ratios.push_back(times.back() / dense_time);
    }
    std::printf("  %-20s %9.2f ms  %.2f of dense\n", c.name.c_str(), 1e3 * median(times),
                median(ratios));
    std::fflush(stdout);
  }
}

// Long sequences are measured less often: they take minutes.
int turns_at(std::int64_t length) { return length > 4096 ? 3 : 9; }

void measure_kernels(std::int64_t batch, std::int64_t length) {
  std::vector<Contender> contenders;
  for (const bool over_rows : {false, true})
    for (const std::int64_t k : {kExperts / 4, kExperts / 2, kExperts})
      contenders.push_back({str(over_rows ? "heads" : "queries", ", k = ", k, " of ", kExperts),
                            routed(batch, length, k, over_rows)});
  compare(str("kernels, ", batch, " x ", length), turns_at(length), dense(batch, length),
          contenders);
}

// A layer alone, with its projections; a routed one with its gate and permutation, too.
template <class Layer>
std::function<void()> layer_work(std::shared_ptr<Layer> layer,
                                 std::shared_ptr<ParameterStore> store,
                                 const ops::RopeTables& tables, std::int64_t batch,
                                 std::int64_t length) {
  auto ids = std::make_shared<std::vector<std::int64_t>>(std::size_t(batch), 0);
  const ForwardContext context = layer_context(*ids, length);
  return [layer, store, tables, ids, context, x = random_rows(batch * length, kHeads, 1),
          dy = random_rows(batch * length, kHeads, 2)] {
    for (Parameter& p : store->all()) p.variable.slot->grad = {};
    layer_pass(
        [&](const Variable& v) -> SublayerOutput {
          if constexpr (std::is_same_v<Layer, Attention>)
            return {layer->forward(v, tables, context, {}), {}};
          else
            return layer->forward(v, tables, context, {});
        },
        x, dy);
  };
}

void measure_layers(Communicator& world, std::int64_t batch, std::int64_t length) {
  ModelConfig config;
  config.vocab_size = 64;
  config.hidden_size = config.intermediate_size = kHeads * kHeadDim;
  config.layers = 1;
  config.heads = kHeads;
  config.kv_heads = kKvHeads;
  config.head_dim = kHeadDim;
  const ops::RopeTables tables = rope_tables(config, length, DType::f32);
  const auto weights = [](const ModelConfig& c) {
    auto store = std::make_shared<ParameterStore>(c, DType::f32);
    store->load(initial_weights(c, 1));
    return store;
  };
  const auto dense_weights = weights(config);
  const auto baseline = layer_work(std::make_shared<Attention>(config, *dense_weights, 0),
                                   dense_weights, tables, batch, length);
  std::vector<Contender> contenders;
  std::list<ModelConfig> configs;  // layers read theirs
  for (const AttentionExpert kind : {AttentionExpert::queries, AttentionExpert::heads})
    for (const std::int64_t k : {kExperts / 4, kExperts / 2, kExperts}) {
      ModelConfig& c = configs.emplace_back(config);
      c.attention_moe.kind = kind;
      c.attention_moe.experts = kExperts;
      c.attention_moe.top_k = k;
      c.attention_moe.layers = {true};
      c.attention_moe.score_scale = {double(kExperts) / double(k)};
      const auto store = weights(c);
      contenders.push_back(
          {str(kind == AttentionExpert::heads ? "heads" : "queries", ", k = ", k, " of ", kExperts),
           layer_work(std::make_shared<RoutedAttention>(c, *store, 0, world), store, tables, batch,
                      length)});
    }
  compare(str("layers, ", batch, " x ", length), turns_at(length), baseline, contenders);
}

}  // namespace
}  // namespace moe

int main(int count, char** arguments) {
  std::vector<std::int64_t> lengths;
  for (int i = 1; i < count; ++i) lengths.push_back(std::atol(arguments[i]));
  if (lengths.empty()) lengths = {64, 512, 2048, 8192};
  const auto world = moe::single_rank();
  for (const std::int64_t length : lengths) {
    const std::int64_t batch = std::max<std::int64_t>(1, 2048 / length);
    moe::measure_kernels(batch, length);
    moe::measure_layers(*world, batch, length);
  }
}
