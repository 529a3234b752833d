// SPDX-License-Identifier: Apache-2.0
#include "nn/transformer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "support/tensor_tools.h"

namespace moe {
namespace {

ModelConfig dense_config() {
  ModelConfig c;
  c.vocab_size = 19;
  c.hidden_size = 8;
  c.intermediate_size = 12;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 2;
  c.initializer_range = 0.5;
  return c;
}

/// The dense config with `experts` experts of `sizes` neurons and a linear gate without noise.
ModelConfig expert_config(std::vector<std::int64_t> sizes, std::int64_t k, double scale) {
  ModelConfig c = dense_config();
  c.moe.experts = std::int64_t(sizes.size());
  c.moe.top_k = k;
  c.moe.expert_sizes.assign(2, std::move(sizes));
  c.moe.score_scale.assign(2, scale);
  c.moe.gate = GateKind::linear;
  c.moe.gate_noise = false;
  return c;
}

/// A model of one process in f64.
struct Model {
  Model(const ModelConfig& c, const ParameterRows& rows)
      : config(c), world(single_rank()), grid(*world, 1), store(config, DType::f64) {
    store.load(rows);
    transformer.emplace(config, store, grid);
  }
  ModelConfig config;
  std::unique_ptr<Communicator> world;
  ProcessGrid grid;
  ParameterStore store;
  std::optional<Transformer> transformer;
};

Tensor some_tokens() { return Tensor::of<std::int32_t>({2, 5}, {1, 4, 2, 8, 5, 7, 1, 3, 18, 0}); }

double largest_difference(const Tensor& a, const Tensor& b) {
  double most = 0;
  for (std::int64_t i = 0; i < a.size(); ++i)
    most = std::max(most, std::abs(a.data<double>()[i] - b.data<double>()[i]));
  return most;
}

/// The dense FFN's neurons given to the experts in this order, after the first `shared` of them to
/// shared experts; gates are zeros.
ParameterRows split_of(const ParameterRows& dense, std::vector<std::int64_t> order,
                       std::int64_t shared = 0) {
  return [=](const std::string& name, std::int64_t first, std::int64_t count) {
    if (name.find("router") != std::string::npos) return Tensor::zeros({count, 8}, DType::f32);
    const bool is_shared = name.find(".shared.") != std::string::npos;
    const std::size_t at = name.find(is_shared ? "shared" : "experts");
    if (at == std::string::npos) return dense(name, first, count);
    std::string source = name;
    source.replace(at, is_shared ? 6 : 7, "ffn");
    const std::int64_t base = is_shared ? first : shared + first;
    Tensor rows = Tensor::empty({count, 8}, DType::f32);
    for (std::int64_t i = 0; i < count; ++i)
      rows.slice(i, 1).copy_from(dense(source, order[std::size_t(base + i)], 1));
    return rows;
  };
}

TEST(Transformer, AllExpertsWithZeroGatesAndScaleEAreTheDenseModel) {
  const ParameterRows dense = initial_weights(dense_config(), 5);
  const Tensor want = Model(dense_config(), dense).transformer->logits(some_tokens(), {});
  std::vector<std::int64_t> order(12);
  std::iota(order.begin(), order.end(), 0);
  std::reverse(order.begin(), order.end());
  const Model split(expert_config({5, 1, 2, 4}, 4, 4), split_of(dense, order));
  EXPECT_LT(largest_difference(split.transformer->logits(some_tokens(), {}), want), 1e-12);

  ModelConfig units = expert_config({5, 1, 2, 4}, 4, 1);
  units.moe.unit_weights = true;
  const ParameterRows any_gate = [&](const std::string& name, std::int64_t first,
                                     std::int64_t count) {
    if (name.ends_with("weight_scale")) return Tensor::zeros({count}, DType::f32);
    return name.ends_with("router.weight") ? initial_weights(units, 3)(name, first, count)
                                           : split_of(dense, order)(name, first, count);
  };
  const Model sum(units, any_gate);
  EXPECT_LT(largest_difference(sum.transformer->logits(some_tokens(), {}), want), 1e-12);

  // The same models that choose two: a pass with all of them is the dense model.
  ForwardContext all;
  all.routing.top_k = 4;
  units.moe.top_k = 2;
  ModelConfig of_all = expert_config({5, 1, 2, 4}, 2, 4);
  of_all.moe.softmax_over_all = true;
  for (const Model& few : {Model(expert_config({5, 1, 2, 4}, 2, 2), split_of(dense, order)),
                           Model(of_all, split_of(dense, order)), Model(units, any_gate)}) {
    EXPECT_GT(largest_difference(few.transformer->logits(some_tokens(), {}), want), 1e-3);
    EXPECT_LT(largest_difference(few.transformer->logits(some_tokens(), all), want), 1e-12);
  }
}

TEST(UnitWeights, AndExpertBiasesMatchCentralDifferences) {
  ModelConfig config = expert_config({4, 3, 2}, 2, 1.5);
  config.moe.unit_weights = config.moe.expert_bias = true;
  const ParameterRows rows = [base = initial_weights(config, 9)](
                                 const std::string& name, std::int64_t first, std::int64_t count) {
    if (name.ends_with("weight_scale")) return Tensor::of<float>({3}, {0.5F, -0.25F, 2});
    if (name.ends_with("experts.bias"))
      return base("layers.0.experts.up.weight", first, count);  // any numbers but zeros
    return base(name, first, count);
  };
  const Model m(config, rows);
  const Tensor labels = Tensor::of<std::int32_t>({2, 5}, {4, 2, 8, 5, 1, 1, 3, 18, 0, 2});
  const auto loss = [&] {
    return m.transformer->loss(some_tokens(), labels, 0.1, {}).total.value.data<double>()[0];
  };
  Tape tape;
  tape.backward(m.transformer->loss(some_tokens(), labels, 0.1, {}).total);
  for (const char* name : {"layers.0.router.weight", "layers.0.router.weight_scale",
                           "layers.0.experts.bias", "layers.1.experts.down.weight"}) {
    const Variable& w = m.store[name];
    const NoTape no_recording;
    EXPECT_LT(test::relative_error(w.slot->grad, test::central_differences(w.value, loss)), 1e-7)
        << name;
  }
}

TEST(ExpertBias, IsAddedForEveryChosenExpertAndNoOther) {
  ModelConfig config = expert_config({4, 4, 4}, 2, 1);
  config.moe.unit_weights = config.moe.expert_bias = config.moe.gate_bias = true;
  const ParameterRows rows = [base = initial_weights(config, 4)](
                                 const std::string& name, std::int64_t first, std::int64_t count) {
    if (name.ends_with("router.weight") || name.ends_with("experts.down.weight"))
      return Tensor::zeros({count, 8}, DType::f32);  // experts say nothing but their biases
    if (name.ends_with("router.bias")) return Tensor::of<float>({3}, {1, -1, 2});
    if (!name.ends_with("experts.bias")) return base(name, first, count);
    std::vector<float> values(std::size_t(8 * count), 0.0F);
    for (std::int64_t i = 0; i < count; ++i)
      values[std::size_t(8 * i)] = std::array{3.0F, 100.0F, 4.0F}[std::size_t(first + i)];
    return Tensor::of<float>({count, 8}, values);
  };
  const Model m(config, rows);
  const MoeLayer layer(m.config, m.store, 0, m.grid);
  ForwardContext context;
  context.sequences = 1;
  context.length = 3;
  const Tensor x = Tensor::of<double>({3, 8}, std::vector<double>(24, 0.5));
  const Tensor y = layer.forward(Variable::constant(x), context).y.value;
  for (std::int64_t t = 0; t < 3; ++t)
    for (std::int64_t c = 0; c < 8; ++c)
      EXPECT_EQ(y.data<double>()[t * 8 + c], c == 0 ? 7 : 0) << t << " " << c;
}

TEST(Transformer, SharedExpertsAndDenseLayersKeepTheDenseModelToo) {
  const ParameterRows dense = initial_weights(dense_config(), 5);
  const Tensor want = Model(dense_config(), dense).transformer->logits(some_tokens(), {});
  std::vector<std::int64_t> order(12);
  std::iota(order.begin(), order.end(), 0);
  std::reverse(order.begin(), order.end());
  ModelConfig config = expert_config({4, 3}, 2, 2);
  config.moe.shared_sizes.assign(2, {2, 3});
  for (const bool gate : {false, true}) {
    config.moe.shared_gate = gate;  // a gate of zeros weighs each of the two by a half
    config.moe.shared_scale = gate ? 2 : 1;
    const Model split(config, split_of(dense, order, 5));
    EXPECT_LT(largest_difference(split.transformer->logits(some_tokens(), {}), want), 1e-12);
  }
  config.moe.expert_sizes[1].clear();
  config.moe.shared_sizes[1].clear();
  const Model half(config, split_of(dense, order, 5));
  EXPECT_EQ(half.store["layers.1.ffn.up.weight"].value.rows(), 12);
  EXPECT_LT(largest_difference(half.transformer->logits(some_tokens(), {}), want), 1e-12);
}

TEST(SharedExperts, GradientsMatchCentralDifferences) {
  ModelConfig config = expert_config({4, 3}, 1, 2);
  config.layers = 1;
  config.moe.expert_sizes.resize(1);
  config.moe.score_scale.resize(1);
  config.moe.shared_sizes = {{2, 3}};
  config.moe.shared_gate = true;
  config.moe.shared_scale = 1.5;
  config.moe.gate_bias = true;
  config.moe.softmax_over_all = true;
  const Model m(config, initial_weights(config, 9));
  const Tensor labels = Tensor::of<std::int32_t>({2, 5}, {4, 2, 8, 5, 1, 1, 3, 18, 0, 2});
  const auto loss = [&] {
    return m.transformer->loss(some_tokens(), labels, 0.1, {}).total.value.data<double>()[0];
  };
  Tape tape;
  tape.backward(m.transformer->loss(some_tokens(), labels, 0.1, {}).total);
  for (const char* name : {"layers.0.shared_router.weight", "layers.0.shared.gate.weight",
                           "layers.0.shared.down.weight", "layers.0.router.bias"}) {
    const Variable& w = m.store[name];
    const NoTape no_recording;
    EXPECT_LT(test::relative_error(w.slot->grad, test::central_differences(w.value, loss)), 1e-7)
        << name;
  }
}

TEST(Router, BiasDecidesWhereTheLogitsDoNot) {
  ModelConfig config = expert_config({4, 4, 4}, 1, 1);
  config.moe.gate_bias = true;
  const ParameterRows rows = [base = initial_weights(config, 4)](
                                 const std::string& name, std::int64_t first, std::int64_t count) {
    if (name.ends_with("router.weight")) return Tensor::zeros({count, 8}, DType::f32);
    if (name.ends_with("router.bias")) return Tensor::of<float>({3}, {0, -1, 2});
    return base(name, first, count);
  };
  const Model m(config, rows);
  RouterStatistics statistics(2, 3);
  ForwardContext context;
  context.routing.statistics = &statistics;
  (void)m.transformer->logits(some_tokens(), context);
  EXPECT_EQ(test::to_doubles(statistics.chosen.slice(1, 1)), (std::vector<double>{0, 0, 10}));
}

TEST(Transformer, DoesNotChangeWhenExpertsChangePlaces) {
  const ModelConfig config = expert_config({3, 3, 3, 3}, 2, 2);
  const ParameterRows rows = initial_weights(config, 6);
  const std::vector<std::int64_t> place = {2, 0, 3, 1};
  const ParameterRows moved = [&](const std::string& name, std::int64_t first, std::int64_t count) {
    const bool expert = name.find("experts") != std::string::npos;
    if (!expert && name.find("router") == std::string::npos) return rows(name, first, count);
    const std::int64_t each = expert ? 3 : 1;
    Tensor t = Tensor::empty({count, 8}, DType::f32);
    for (std::int64_t i = 0; i < count; ++i)
      t.slice(i, 1).copy_from(
          rows(name, place[std::size_t((first + i) / each)] * each + (first + i) % each, 1));
    return t;
  };
  const Tensor a = Model(config, rows).transformer->logits(some_tokens(), {});
  const Tensor b = Model(config, moved).transformer->logits(some_tokens(), {});
  EXPECT_LT(largest_difference(a, b), 1e-12);
}

TEST(Transformer, CachedKeysGiveTheLogitsOfTheWholeSequence) {
  const ModelConfig config = expert_config({4, 4, 4}, 2, 1.5);
  const Model m(config, initial_weights(config, 7));
  const Tensor tokens = Tensor::of<std::int32_t>({1, 6}, {1, 4, 2, 8, 5, 7});
  const Tensor want = m.transformer->logits(tokens, {});
  KvCache cache(config, DType::f64, Device::cpu, 2);
  KvCache* const caches[] = {&cache};
  std::int64_t done = 0;
  for (const std::int64_t n : {3, 1, 2}) {
    const Tensor part = Tensor::empty({1, n}, DType::i32);
    part.copy_from(tokens.view({6, 1}).slice(done, n).view({1, n}));
    const Tensor logits = m.transformer->logits(part, {}, caches);
    EXPECT_LT(largest_difference(logits, want.slice(done, n)), 1e-12);
    done += n;
    EXPECT_EQ(cache.length, done);
  }
}

TEST(Transformer, ContinuesSequencesOfDifferentLengthsTogether) {
  const ModelConfig config = expert_config({3, 5, 4}, 2, 2);
  const Model m(config, initial_weights(config, 7));
  const std::vector<std::vector<std::int32_t>> texts = {{1, 4, 2, 8, 5, 7}, {3, 9, 6}};
  KvCache first(config, DType::f64, Device::cpu, 6), second(config, DType::f64, Device::cpu, 0);
  KvCache* const caches[] = {&first, &second};
  for (std::size_t s = 0; s < 2; ++s)
    m.transformer->logits_at(Tensor::of<std::int32_t>({1, std::int64_t(texts[s].size()) - 1},
                                                      {texts[s].begin(), texts[s].end() - 1}),
                             {0}, {}, std::span(caches).subspan(s, 1));
  const Tensor got = m.transformer->logits(Tensor::of<std::int32_t>({2, 1}, {7, 6}), {}, caches);
  for (std::int64_t s = 0; s < 2; ++s) {
    const auto n = std::int64_t(texts[std::size_t(s)].size());
    const Tensor want = m.transformer->logits(Tensor::of({1, n}, texts[std::size_t(s)]), {});
    EXPECT_LT(largest_difference(got.slice(s, 1), want.slice(n - 1, 1)), 1e-12) << s;
  }
}

TEST(Transformer, SeesNoTokenAfterItsOwn) {
  const Model m(dense_config(), initial_weights(dense_config(), 8));
  Tensor changed = some_tokens();
  const Tensor before = m.transformer->logits(some_tokens(), {});
  changed.data<std::int32_t>()[4] = 11;  // the last token of the first sequence
  const Tensor after = m.transformer->logits(changed, {});
  EXPECT_EQ(largest_difference(before.slice(0, 4), after.slice(0, 4)), 0);
  EXPECT_GT(largest_difference(before.slice(4, 1), after.slice(4, 1)), 1e-3);
  EXPECT_EQ(largest_difference(before.slice(5, 5), after.slice(5, 5)), 0);
}

double gate_gradient(bool softmax_over_all) {
  ModelConfig config = expert_config({6, 6}, 1, 2);
  config.moe.softmax_over_all = softmax_over_all;
  const Model m(config, initial_weights(config, 9));
  Tape tape;
  const Tensor labels = Tensor::of<std::int32_t>({2, 5}, {4, 2, 8, 5, 1, 1, 3, 18, 0, 2});
  tape.backward(m.transformer->loss(some_tokens(), labels, 0.1, {}).total);
  const Tensor& g = m.store["layers.0.router.weight"].slot->grad;
  double sum = 0;
  for (std::int64_t i = 0; i < g.size(); ++i) sum += std::abs(g.data<double>()[i]);
  return sum;
}

TEST(Router, OfOneExpertPerTokenLearnsOnlyFromASoftmaxOverAll) {
  EXPECT_EQ(gate_gradient(false), 0);
  EXPECT_GT(gate_gradient(true), 1e-3);
}

TEST(MoeLayer, ServesCornerCasesFromPoisonedMemory) {
  poison_new_memory(true);
  const ModelConfig config = expert_config({4, 4, 4}, 1, 3);
  // No token at all, one token, all tokens to the same expert.
  for (const std::vector<std::int32_t>& tokens :
       {std::vector<std::int32_t>{-1, -1}, std::vector<std::int32_t>{3, -1},
        std::vector<std::int32_t>{3, 3}}) {
    const Model m(config, initial_weights(config, 3));
    RouterStatistics statistics(2, 3);
    ForwardContext context;
    context.routing.statistics = &statistics;
    Tape tape;
    const Tensor ids = Tensor::of<std::int32_t>({1, 2}, tokens);
    const ModelLoss loss = m.transformer->loss(ids, ids, 1, context);
    tape.backward(loss.total);
    for (const Parameter& p : m.store.all()) {
      if (!p.variable.slot->grad.defined()) continue;
      for (std::int64_t i = 0; i < p.variable.slot->grad.size(); ++i)
        ASSERT_TRUE(std::isfinite(p.variable.slot->grad.data<double>()[i])) << p.name();
    }
    double routed = 0;
    for (const double n : test::to_doubles(statistics.chosen.slice(0, 1))) routed += n;
    EXPECT_EQ(routed, std::count_if(tokens.begin(), tokens.end(), [](int t) { return t >= 0; }));
  }
  poison_new_memory(false);
}

TEST(ParameterStore, HoldsTheRowsOfItsOwnExperts) {
  const ModelConfig config = expert_config({5, 1, 2, 4, 3}, 2, 1);
  const ParameterStore first(config, DType::f32, 0, 2), second(config, DType::f32, 1, 2);
  EXPECT_EQ(first["layers.0.experts.up.weight"].value.rows(), 8);
  EXPECT_EQ(second["layers.0.experts.up.weight"].value.rows(), 7);
  EXPECT_EQ(second["layers.0.router.weight"].value.rows(), 5);
  EXPECT_THROW(ParameterStore(config, DType::f32, 0, 6), InputError);
  EXPECT_THROW(ParameterStore(dense_config(), DType::f32, 0, 2), InputError);
  EXPECT_THROW(first["layers.9.up"], Error);
}

TEST(InitialWeights, AreTheSameWhateverRowsAreAskedFor) {
  const ParameterRows rows = initial_weights(dense_config(), 4);
  const Tensor whole = rows("layers.1.ffn.up.weight", 0, 12);
  const Tensor part = rows("layers.1.ffn.up.weight", 7, 3);
  for (int i = 0; i < 24; ++i) EXPECT_EQ(part.data<float>()[i], whole.data<float>()[56 + i]);
}

// Hugging Face's transformers, _compute_llama3_parameters, for LLaMA-3.1's settings: frequencies
// above the high band stay, below the low band are divided by the factor.
TEST(Rope, Llama3ScalingLeavesHighFrequenciesAndDividesLowOnes) {
  ModelConfig c = dense_config();
  c.head_dim = 128;
  c.rope_theta = 500000;
  const ops::RopeTables plain = rope_tables(c, 2, DType::f64);
  c.rope_scaling = {RopeScaling::Kind::llama3, 8, 1, 4, 8192};
  const ops::RopeTables scaled = rope_tables(c, 2, DType::f64);
  const auto angle = [](const ops::RopeTables& t, int j) {
    return std::atan2(t.sin.data<double>()[64 + j], t.cos.data<double>()[64 + j]);
  };
  EXPECT_EQ(angle(scaled, 0), angle(plain, 0));
  EXPECT_NEAR(angle(scaled, 63), angle(plain, 63) / 8, 1e-15);
  EXPECT_LT(angle(scaled, 32), angle(plain, 32));
  EXPECT_GT(angle(scaled, 32), angle(plain, 32) / 8);
}

}  // namespace
}  // namespace moe
