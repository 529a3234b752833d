// SPDX-License-Identifier: Apache-2.0
#include "nn/routed_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "nn/transformer.h"
#include "support/grad_check.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

constexpr std::int64_t kHidden = 12, kHeads = 8, kKvHeads = 2, kHeadDim = 4, kLayers = 2;

struct Variant {
  const char* name;
  AttentionExpert kind;
  std::int64_t experts, top_k;
};
void PrintTo(const Variant& v, std::ostream* out) { *out << v.name; }
const std::vector<Variant> kVariants = {
    {"Queries4Top2", AttentionExpert::queries, 4, 2},
    {"Queries2Top1", AttentionExpert::queries, 2, 1},
    {"Heads2Top1", AttentionExpert::heads, 2, 1},
    {"Heads4Top2", AttentionExpert::heads, 4, 2},
    {"Heads8Top3", AttentionExpert::heads, 8, 3},
};

ModelConfig config_of(const Variant& v) {
  ModelConfig c;
  c.vocab_size = 23;
  c.hidden_size = kHidden;
  c.intermediate_size = 10;
  c.layers = kLayers;
  c.heads = kHeads;
  c.kv_heads = kKvHeads;
  c.head_dim = kHeadDim;
  c.initializer_range = 0.5;
  c.attention_moe.kind = v.kind;
  c.attention_moe.experts = v.experts;
  c.attention_moe.top_k = v.top_k;
  c.attention_moe.layers.assign(kLayers, true);
  c.attention_moe.score_scale.assign(kLayers, double(v.experts) / double(v.top_k));
  c.attention_moe.softmax_over_all = v.top_k == 1;
  return c;
}

struct Model {
  explicit Model(const ModelConfig& c, const ParameterRows& rows = {})
      : config(c), world(single_rank()), grid(*world, 1), store(config, DType::f64) {
    config.validate();
    store.load(rows ? rows : initial_weights(config, 11));
    transformer.emplace(config, store, grid);
  }
  ModelConfig config;
  std::unique_ptr<Communicator> world;
  ProcessGrid grid;
  ParameterStore store;
  std::optional<Transformer> transformer;
};

/// A batch for one layer of attention: rows of x, padding at the end of rows, documents.
struct Tokens {
  std::int64_t sequences, length;
  Tensor x;
  std::vector<std::int32_t> starts;  // of the documents, by token
  std::vector<bool> valid;

  Tokens(std::int64_t s, std::int64_t n, bool documents)
      : sequences(s),
        length(n),
        x(testing::random_f64({s * n, kHidden}, 5)),
        starts(std::size_t(s * n), 0),
        valid(std::size_t(s * n), true) {
    for (std::int64_t i = 0; i < s * n && documents; ++i) {
      const std::int64_t t = i % n;
      starts[std::size_t(i)] = t >= 5 ? 5 : t >= 2 && i < n ? 2 : 0;
      valid[std::size_t(i)] = i < n || t < n - 2;
    }
  }

  ForwardContext context() const {
    ForwardContext c;
    c.sequences = sequences;
    c.length = length;
    c.document_starts = Tensor::of({sequences, length}, starts);
    std::vector<std::int32_t> positions;
    Tensor mask = Tensor::empty({sequences * length}, DType::u8);
    c.sequence_tokens.assign(std::size_t(sequences), 0);
    for (std::size_t t = 0; t < starts.size(); ++t) {
      positions.push_back(std::int32_t(std::int64_t(t) % length) - starts[t]);
      mask.data<std::uint8_t>()[t] = valid[t];
      c.sequence_tokens[t / std::size_t(length)] += valid[t];
    }
    c.positions = Tensor::of({sequences * length}, positions);
    c.valid = mask;
    return c;
  }
};

using Vector = std::vector<double>;

/// Rows [first, first + rows) of a parameter times x.
Vector times(const Tensor& w, std::int64_t first, std::int64_t rows, const double* x) {
  Vector y(std::size_t(rows), 0.0);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < w.cols(); ++c)
      y[std::size_t(r)] += w.data<double>()[(first + r) * w.cols() + c] * x[c];
  return y;
}

Vector turned(Vector x, std::int64_t position) {
  for (std::int64_t j = 0; j < kHeadDim / 2; ++j) {
    const double angle = double(position) * std::pow(10000.0, -2.0 * double(j) / double(kHeadDim));
    double &a = x[std::size_t(j)], &b = x[std::size_t(j + kHeadDim / 2)];
    const double a0 = a;
    a = a * std::cos(angle) - b * std::sin(angle);
    b = b * std::cos(angle) + a0 * std::sin(angle);
  }
  return x;
}

/// The attention of layer 0, token by token and head by head: the definition in plain loops.
/// chosen: which experts each token chose, with weights; they come from the layer under test.
Tensor plain_attention(const Model& m, const Tokens& tokens, const ExpertChoice& choice) {
  const AttentionMoeConfig& a = m.config.attention_moe;
  const bool own = a.kind == AttentionExpert::heads;
  const std::int64_t heads = m.config.expert_heads(), kv = m.config.expert_kv_heads(), k = a.top_k;
  const auto weight = [&](const char* part) {
    const bool of_experts = own || *part == 'q' || *part == 'o';
    return m.store[str("layers.0.attention.", of_experts ? "experts." : "", part, ".weight")].value;
  };
  const auto* chosen = choice.experts.data<std::int32_t>();
  const auto chose = [&](std::int64_t t, std::int64_t e) {
    return std::find(chosen + t * k, chosen + (t + 1) * k, std::int32_t(e)) != chosen + (t + 1) * k;
  };
  const auto row = [&](std::int64_t t) { return tokens.x.data<double>() + t * kHidden; };
  Tensor y = Tensor::zeros({tokens.x.rows(), kHidden}, DType::f64);
  for (std::int64_t t = 0; t < tokens.x.rows(); ++t) {
    if (!tokens.valid[std::size_t(t)]) continue;
    const std::int64_t first = t / tokens.length * tokens.length + tokens.starts[std::size_t(t)];
    for (std::int64_t slot = 0; slot < k; ++slot) {
      const std::int64_t e = chosen[t * k + slot];
      for (std::int64_t h = 0; h < heads; ++h) {
        const std::int64_t kv_head = (own ? e * kv : 0) + h / (heads / kv);
        const Vector q =
            turned(times(weight("q"), (e * heads + h) * kHeadDim, kHeadDim, row(t)), t - first);
        Vector out(kHeadDim, 0.0);
        double total = 0;
        for (std::int64_t u = first; u <= t; ++u) {
          if (own && !chose(u, e)) continue;
          const Vector key =
              turned(times(weight("k"), kv_head * kHeadDim, kHeadDim, row(u)), u - first);
          const Vector value = times(weight("v"), kv_head * kHeadDim, kHeadDim, row(u));
          const double p =
              std::exp(std::inner_product(q.begin(), q.end(), key.begin(), 0.0) / 2);  // sqrt(4)
          total += p;
          for (std::size_t d = 0; d < kHeadDim; ++d) out[d] += p * value[d];
        }
        const double factor = choice.weights.data<double>()[t * k + slot] * a.score_scale[0];
        for (std::int64_t d = 0; d < kHeadDim; ++d)
          for (std::int64_t c = 0; c < kHidden; ++c)
            y.data<double>()[t * kHidden + c] +=
                factor * out[std::size_t(d)] / total *
                weight("o").data<double>()[((e * heads + h) * kHeadDim + d) * kHidden + c];
      }
    }
  }
  return y;
}

double difference(const Tensor& got, const Tensor& want) {
  return relative_error(got, to_doubles(want));
}

class RoutedAttentionOf : public ::testing::TestWithParam<Variant> {};

TEST_P(RoutedAttentionOf, ComputesItsDefinition) {
  const Model m(config_of(GetParam()));
  const RoutedAttention layer(m.config, m.store, 0, *m.world);
  for (const bool documents : {false, true}) {
    const Tokens tokens(2, 9, documents);
    ForwardContext context = tokens.context();
    std::vector<ExpertChoice> choices;
    context.attention_routing.choices = &choices;
    const Tensor y = layer
                         .forward(Variable::constant(tokens.x),
                                  rope_tables(m.config, 9, DType::f64), context, {})
                         .y.value;
    EXPECT_LT(difference(y, plain_attention(m, tokens, choices.at(0))), 1e-12);
  }
}

TEST_P(RoutedAttentionOf, HasTheGradientsOfCentralDifferences) {
  const Model m(config_of(GetParam()));
  const Tokens tokens(2, 9, true);
  const ops::RopeTables tables = rope_tables(m.config, 9, DType::f64);
  const auto loss = [&] {
    const RoutedAttention layer(m.config, m.store, 0, *m.world);
    const Variable y = layer.forward(Variable::constant(tokens.x), tables, tokens.context(), {}).y;
    double sum = 0;
    for (std::int64_t i = 0; i < y.value.size(); ++i)
      sum += y.value.data<double>()[i] * (0.3 + 0.1 * double(i % 7));
    return sum;
  };
  Tape tape;
  const Variable y = RoutedAttention(m.config, m.store, 0, *m.world)
                         .forward(Variable::constant(tokens.x), tables, tokens.context(), {})
                         .y;
  Tensor dy = empty_like(y.value);
  for (std::int64_t i = 0; i < dy.size(); ++i) dy.data<double>()[i] = 0.3 + 0.1 * double(i % 7);
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  for (const Parameter& p : m.store.all()) {
    if (!p.name().starts_with("layers.0.attention.")) continue;
    const NoTape no_recording;
    EXPECT_LT(relative_error(p.variable.slot->grad, central_differences(p.variable.value, loss)),
              2e-6)
        << p.name();
  }
}

TEST_P(RoutedAttentionOf, CachedGenerationGivesTheLogitsOfTheWholeSequence) {
  const Model m(config_of(GetParam()));
  const std::vector<std::vector<std::int32_t>> texts = {{1, 4, 2, 8, 5, 7, 3, 9}, {6, 2, 11}};
  std::vector<Tensor> want;
  for (const auto& text : texts)
    want.push_back(m.transformer->logits(Tensor::of({1, std::int64_t(text.size())}, text), {}));
  KvCache first(m.config, DType::f64, Device::cpu, 0), second(m.config, DType::f64, Device::cpu, 4);
  KvCache* const caches[] = {&first, &second};
  // The first text alone in parts, then its end together with the second's, token by token.
  const auto ids = [](const std::vector<std::int32_t>& text, std::int64_t at, std::int64_t n) {
    return std::vector(text.begin() + at, text.begin() + at + n);
  };
  std::int64_t done = 0;
  for (const std::int64_t n : {3, 2}) {
    const Tensor got = m.transformer->logits(Tensor::of({1, n}, ids(texts[0], done, n)), {},
                                             std::span(caches).subspan(0, 1));
    EXPECT_LT(difference(got, want[0].slice(done, n)), 1e-12);
    done += n;
  }
  for (std::int64_t i = 0; i < 3; ++i) {
    const Tensor both = Tensor::of<std::int32_t>(
        {2, 1}, {texts[0][std::size_t(done + i)], texts[1][std::size_t(i)]});
    const Tensor got = m.transformer->logits(both, {}, caches);
    EXPECT_LT(difference(got.slice(0, 1), want[0].slice(done + i, 1)), 1e-12) << i;
    EXPECT_LT(difference(got.slice(1, 1), want[1].slice(i, 1)), 1e-12) << i;
  }
  // A cache holds what was routed to it, and nothing for anybody else.
  for (std::size_t s = 0; s < 2; ++s)
    for (const std::vector<KvRows>& layer : caches[s]->layers) {
      std::int64_t rows = 0;
      for (const KvRows& r : layer) rows += r.length();
      const bool own = GetParam().kind == AttentionExpert::heads;
      EXPECT_EQ(rows, std::int64_t(texts[s].size()) * (own ? GetParam().top_k : 1));
    }
}

TEST_P(RoutedAttentionOf, PackedDocumentsGiveTheLossOfEachAlone) {
  const Model m(config_of(GetParam()));
  const std::vector<std::vector<std::int32_t>> documents = {
      {1, 4, 2, 8}, {5, 7, 3}, {9, 6, 2, 11, 13}, {12, 10}, {3, 1, 4, 1, 5, 9}, {2, 6, 5}};
  std::vector<double> alone;
  for (const auto& d : documents) {
    const Tensor tokens = Tensor::of({1, std::int64_t(d.size())}, d);
    const Tensor loss = m.transformer->loss(tokens, tokens, 1, {}).token_loss;
    const std::vector<double> l = to_doubles(loss);
    alone.insert(alone.end(), l.begin(), l.end());
  }
  // The same in four rows of 7, two of them padded; together, and row by row.
  constexpr std::int64_t kRow = 7, kRows = 4;
  Tensor tokens = Tensor::empty({kRows, kRow}, DType::i32),
         starts = Tensor::empty({kRows, kRow}, DType::i32);
  std::vector<std::int64_t> at;
  std::int64_t place = 0;
  const auto put = [&](std::int32_t id, std::int64_t begin) {
    tokens.data<std::int32_t>()[place] = id;
    starts.data<std::int32_t>()[place++] = std::int32_t(begin);
  };
  const auto pad_row = [&] {
    while (place % kRow != 0) put(-1, place % kRow);
  };
  for (const auto& d : documents) {
    if (place % kRow + std::int64_t(d.size()) > kRow) pad_row();
    const std::int64_t begin = place % kRow;
    for (const std::int32_t id : d) {
      at.push_back(place);
      put(id, begin);
    }
  }
  pad_row();
  ASSERT_EQ(place, kRows * kRow);
  for (const std::int64_t rows : {4, 1}) {
    Vector packed;
    for (std::int64_t first = 0; first < kRows; first += rows) {
      ForwardContext context;
      context.document_starts = starts.slice(first, rows);
      const Tensor part = tokens.slice(first, rows);
      const Vector l = to_doubles(m.transformer->loss(part, part, 1, context).token_loss);
      packed.insert(packed.end(), l.begin(), l.end());
    }
    for (std::size_t i = 0; i < at.size(); ++i)
      EXPECT_NEAR(packed[std::size_t(at[i])], alone[i], 1e-10)
          << rows << " rows at once, token " << i;
  }
}

TEST_P(RoutedAttentionOf, RowsOfPaddingAloneGiveNothing) {
  const Model m(config_of(GetParam()));
  Tensor tokens = Tensor::empty({1, 3}, DType::i32);
  for (std::int64_t t = 0; t < 3; ++t) tokens.data<std::int32_t>()[t] = -1;
  Tape tape;
  const ModelLoss loss = m.transformer->loss(tokens, tokens, 1, {});
  EXPECT_EQ(loss.total.value.data<double>()[0], 0);
}

INSTANTIATE_TEST_SUITE_P(Kinds, RoutedAttentionOf, ::testing::ValuesIn(kVariants),
                         [](const auto& test) { return test.param.name; });

/// The dense attention's weights in the places of a mixture's (docs/numerics.md), gates of zeros.
ParameterRows as_experts(const ModelConfig& mixture, const ParameterRows& dense) {
  return [=](const std::string& name, std::int64_t first, std::int64_t count) {
    const std::size_t at = name.find("attention.experts.");
    if (name.find("attention.router.") != std::string::npos)
      return Tensor::zeros({count, kHidden}, DType::f64);
    if (at == std::string::npos) return dense(name, first, count);
    const std::string part = name.substr(at + 18, 1);
    const std::string of = name.substr(0, at) + "attention." + part + ".weight";
    const bool queries = mixture.attention_moe.kind == AttentionExpert::queries;
    const std::int64_t e_heads = mixture.expert_heads(), group = kHeads / kKvHeads;
    Tensor out = Tensor::empty({count, kHidden}, DType::f64);
    const Tensor whole = part == "o" ? dense(of, 0, kHidden) : Tensor();
    for (std::int64_t r = first; r < first + count; ++r) {
      std::int64_t head = r / kHeadDim;
      const std::int64_t d = r % kHeadDim, e = head / e_heads, i = head % e_heads;
      if (part == "k" || part == "v") {
        head = head * kKvHeads / (mixture.attention_moe.experts * mixture.expert_kv_heads());
      } else if (queries) {
        const std::int64_t share = group / mixture.attention_moe.experts;
        head = i / share * group + e * share + i % share;
      }
      for (std::int64_t c = 0; c < kHidden; ++c)
        out.data<double>()[(r - first) * kHidden + c] =
            part == "o" ? double(whole.data<float>()[c * kHeads * kHeadDim + head * kHeadDim + d])
                        : double(dense(of, head * kHeadDim + d, 1).data<float>()[c]);
    }
    return out;
  };
}

TEST(RoutedAttention, AllExpertsWithUniformGatesAreTheDenseAttention) {
  Variant v{"", AttentionExpert::heads, 0, 0};
  ModelConfig dense = config_of({"", AttentionExpert::heads, 2, 2});
  dense.attention_moe = {};
  const ParameterRows weights = initial_weights(dense, 3);
  const Tensor tokens = Tensor::of<std::int32_t>({2, 5}, {1, 4, 2, 8, 5, 7, 1, 3, 18, 0});
  const Tensor want = Model(dense, weights).transformer->logits(tokens, {});
  for (const auto& [kind, list] :
       {std::pair{AttentionExpert::queries, std::vector<std::int64_t>{1, 2, 4}},
        std::pair{AttentionExpert::heads, std::vector<std::int64_t>{1, 2, 4, 8}}})
    for (const std::int64_t experts : list) {
      v.kind = kind;
      v.experts = v.top_k = experts;
      ModelConfig c = config_of(v);
      c.attention_moe.score_scale.assign(kLayers, double(experts));
      c.attention_moe.softmax_over_all = false;
      const Tensor got = Model(c, as_experts(c, weights)).transformer->logits(tokens, {});
      EXPECT_LT(difference(got, want), 1e-12) << experts << " experts";
    }
}

TEST(RoutedAttention, NothingReachesATokenThatSharesNoExpert) {
  const Model m(config_of({"", AttentionExpert::heads, 8, 1}));
  const Tokens tokens(1, 9, false);
  const ops::RopeTables tables = rope_tables(m.config, 9, DType::f64);
  int shared = 0, apart = 0;
  for (std::int64_t t = 0; t < 9; ++t) {
    ForwardContext context = tokens.context();
    std::vector<ExpertChoice> choices;
    context.attention_routing.choices = &choices;
    Tape tape;
    const Variable x = Variable::leaf(tokens.x);
    const Variable y =
        RoutedAttention(m.config, m.store, 0, *m.world).forward(x, tables, context, {}).y;
    Tensor dy = Tensor::zeros(y.value.shape(), DType::f64);
    for (std::int64_t c = 0; c < kHidden; ++c) dy.data<double>()[t * kHidden + c] = 1;
    tape.backward(std::span(&y, 1), std::span(&dy, 1));
    const auto* expert = choices[0].experts.data<std::int32_t>();
    for (std::int64_t u = 0; u < 9; ++u) {
      double largest = 0;
      for (std::int64_t c = 0; c < kHidden; ++c)
        largest = std::max(largest, std::abs(x.slot->grad.data<double>()[u * kHidden + c]));
      const bool sees = u <= t && expert[u] == expert[t];
      EXPECT_EQ(largest > 0, sees) << "from token " << t << " to " << u;
      if (u < t) ++(sees ? shared : apart);
    }
  }
  EXPECT_GT(shared, 3);
  EXPECT_GT(apart, 3);
}

TEST(RoutedAttention, RecomputationChangesNoBit) {
  for (const Variant& v : kVariants) {
    ModelConfig c = config_of(v);
    const Model m(c);
    const Tensor tokens = Tensor::of<std::int32_t>({2, 5}, {1, 4, 2, 8, 5, 7, 1, 3, -1, -1});
    std::vector<std::vector<Tensor>> gradients;
    for (const Recompute what : {Recompute::none, Recompute::cheap, Recompute::block}) {
      ForwardContext context;
      context.training = true;
      const std::vector<std::int64_t> ids = {0, 1};
      context.sequence_ids = ids;
      context.recompute = what;
      context.inverse_routed = 0.125;
      context.attention_routing.options.switch_top_k = 0.1;
      context.attention_routing.options.z = 0.1;
      Tape tape;
      tape.backward(m.transformer->loss(tokens, tokens, 0.125, context).total);
      std::vector<Tensor>& list = gradients.emplace_back();
      for (const Parameter& p : m.store.all()) {
        list.push_back(Tensor::empty(p.variable.slot->grad.shape(), DType::f64));
        list.back().copy_from(p.variable.slot->grad);
        p.variable.slot->grad = Tensor();
      }
    }
    for (std::size_t i = 0; i < gradients[0].size(); ++i)
      for (const std::size_t other : {1, 2})
        EXPECT_TRUE(same_bits(gradients[0][i], gradients[other][i]))
            << v.name << ", " << m.store.all()[i].name();
  }
}

TEST(RoutedAttention, DrawsGateNoiseThatTheFeedForwardDoesNotShare) {
  ModelConfig c = config_of({"", AttentionExpert::heads, 4, 2});
  c.attention_moe.gate_noise = true;
  static_cast<RouterConfig&>(c.moe) = c.attention_moe;
  c.moe.expert_sizes.assign(kLayers, {3, 3, 2, 2});
  const Model m(c, [rows = initial_weights(c, 2)](const std::string& name, std::int64_t first,
                                                  std::int64_t count) {
    return name.find("router.") == std::string::npos ? rows(name, first, count)
                                                     : Tensor::zeros({count, kHidden}, DType::f64);
  });
  const Tokens tokens(2, 5, false);
  const std::vector<std::int64_t> ids = {0, 1};
  ForwardContext context = tokens.context();
  context.training = true;
  context.sequence_ids = ids;
  const Variable x = Variable::constant(tokens.x);
  const auto weights = [&](Router::Of what) {
    return Router(m.config, m.store, what, 0, *m.world).forward(x, context).weights.value;
  };
  EXPECT_TRUE(same_bits(weights(Router::Of::ffn), weights(Router::Of::ffn)));
  EXPECT_GT(difference(weights(Router::Of::ffn), weights(Router::Of::attention)), 1e-3);
}

}  // namespace
}  // namespace moe
