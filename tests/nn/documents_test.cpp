// SPDX-License-Identifier: Apache-2.0
// ForwardContext::document_starts in a whole model: what one document of a row has to do with
// another, which is nothing.
#include <gtest/gtest.h>

#include <cstring>

#include "nn/transformer.h"
#include "support/document_starts.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

constexpr std::int64_t kLength = 9;

/// With `experts`, four of them with two a token, else dense.
ModelConfig config_of(bool experts) {
  ModelConfig c;
  c.vocab_size = 40;
  c.hidden_size = 16;
  c.intermediate_size = 12;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.initializer_range = 0.5;
  if (!experts) return c;
  c.moe.experts = 4;
  c.moe.top_k = 2;
  c.moe.expert_sizes.assign(2, {3, 3, 3, 3});
  c.moe.score_scale.assign(2, 2);
  c.moe.gate = GateKind::linear;
  c.moe.gate_noise = false;
  return c;
}

struct Model {
  Model(bool experts, DType dtype)
      : config(config_of(experts)), world(single_rank()), grid(*world, 1), store(config, dtype) {
    store.load(initial_weights(config, 4));
    transformer.emplace(config, store, grid);
  }
  ModelConfig config;
  std::unique_ptr<Communicator> world;
  ProcessGrid grid;
  ParameterStore store;
  std::optional<Transformer> transformer;
};

/// Two rows; the documents of the first begin at 0 and 4, those of the second at 0, 2 and 7. Each
/// token of the second row's middle document (the one that is looked at) is below 10, all else
/// above.
struct Rows {
  Tensor tokens = Tensor::empty({2, kLength}, DType::i32);
  Tensor labels = Tensor::empty({2, kLength}, DType::i32);
  Tensor starts = Tensor::zeros({2, kLength}, DType::i32);

  Rows() {
    set_document(starts, 0, 4, kLength);
    set_document(starts, 1, 2, 7);
    set_document(starts, 1, 7, kLength);
    for (std::int64_t i = 0; i < tokens.size(); ++i) {
      tokens.data<std::int32_t>()[i] = std::int32_t(is_inside(i) ? i % 10 : 10 + i);
      labels.data<std::int32_t>()[i] = std::int32_t(is_inside(i) ? 20 + i % 7 : -1);
    }
  }
  static bool is_inside(std::int64_t i) { return i >= kLength + 2 && i < kLength + 7; }
  ForwardContext context(Recompute recompute = Recompute::none) const {
    ForwardContext c;
    c.document_starts = starts;
    c.recompute = recompute;
    return c;
  }
};

TEST(Documents, NoBitOfALossDependsOnATokenOfAnotherDocument) {
  for (const bool experts : {false, true})
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      // A token that goes to another expert changes the shape of a product, and that its order of
      // sums but in f64.
      if (experts && dtype != DType::f64) continue;
      const Model m(experts, dtype);
      const Rows r;
      const Tensor want = m.transformer->loss(r.tokens, r.labels, 1, r.context()).token_loss;
      Rows changed;
      for (std::int64_t i = 0; i < 2 * kLength; ++i)
        if (!Rows::is_inside(i)) changed.tokens.data<std::int32_t>()[i] += 3;
      const Tensor got =
          m.transformer->loss(changed.tokens, changed.labels, 1, changed.context()).token_loss;
      EXPECT_TRUE(same_bits(want, got)) << name(dtype) << ", experts: " << experts;
      EXPECT_GT(max_abs_difference(to_doubles(want), std::vector<double>(2 * kLength, 0)), 0.1);
      const Tensor unmasked = m.transformer->loss(r.tokens, r.labels, 1, {}).token_loss;
      EXPECT_FALSE(same_bits(unmasked, want));
    }
}

TEST(Documents, NoGradientReachesATokenOfAnotherDocument) {
  for (const bool experts : {false, true})
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
      for (const Recompute recompute : {Recompute::none, Recompute::cheap, Recompute::block}) {
        const Model m(experts, dtype);
        const Rows r;
        Tape tape;
        tape.backward(m.transformer->loss(r.tokens, r.labels, 0.2, r.context(recompute)).total);
        const Tensor& embeddings = m.store["embed.weight"].slot->grad;
        const std::vector<double> g = to_doubles(embeddings);
        for (std::int64_t i = 0; i < 2 * kLength; ++i) {
          double largest = 0;
          const std::int64_t id = r.tokens.data<std::int32_t>()[i];
          for (std::int64_t c = 0; c < 16; ++c)
            largest = std::max(largest, std::abs(g[std::size_t(id * 16 + c)]));
          if (Rows::is_inside(i)) {
            EXPECT_GT(largest, 1e-4) << "token " << i;
          } else {
            EXPECT_EQ(largest, 0) << "token " << i << ", " << name(dtype);
          }
        }
      }
}

TEST(Documents, GradientsMatchCentralDifferences) {
  for (const bool experts : {false, true}) {
    const Model m(experts, DType::f64);
    const Rows r;
    const auto loss = [&] {
      return m.transformer->loss(r.tokens, r.labels, 0.1, r.context())
          .total.value.data<double>()[0];
    };
    Tape tape;
    tape.backward(m.transformer->loss(r.tokens, r.labels, 0.1, r.context()).total);
    for (const char* name : {"layers.0.attention.q.weight", "layers.0.attention.k.weight",
                             "layers.1.attention.v.weight", "layers.0.attention_norm.weight"}) {
      const Variable& w = m.store[name];
      const NoTape no_recording;
      EXPECT_LT(relative_error(w.slot->grad, central_differences(w.value, loss)), 1e-6) << name;
    }
  }
}

TEST(Documents, OneARowIsWhatNoDocumentsAre) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Model m(true, dtype);
    Rows r;
    const Tensor want = m.transformer->loss(r.tokens, r.labels, 1, {}).token_loss;
    r.starts = Tensor::zeros(r.starts.shape(), DType::i32);
    EXPECT_TRUE(
        same_bits(m.transformer->loss(r.tokens, r.labels, 1, r.context()).token_loss, want));
  }
}

TEST(Documents, MustBeginWithinTheirRowAndGoWithNoCache) {
  const Model m(false, DType::f32);
  const Rows good;
  for (const auto& [at, start] : {std::pair{3, 4}, {kLength + 1, -1}, {kLength, 1}}) {
    Rows r;
    r.starts.data<std::int32_t>()[at] = std::int32_t(start);
    try {
      m.transformer->loss(r.tokens, r.labels, 1, r.context());
      ADD_FAILURE() << at;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(str("token ", at % kLength, " of row ", at / kLength)),
                std::string::npos)
          << e.what();
    }
  }
  ForwardContext short_rows = good.context();
  short_rows.document_starts = good.starts.slice(0, 1);
  EXPECT_THROW(m.transformer->loss(good.tokens, good.labels, 1, short_rows), Error);
  KvCache cache(m.config, DType::f64, Device::cpu, 0);
  KvCache* const caches[] = {&cache, &cache};
  EXPECT_THROW(m.transformer->logits(good.tokens, good.context(), caches), Error);
}

}  // namespace
}  // namespace moe
