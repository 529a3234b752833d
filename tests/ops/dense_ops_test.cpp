// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/experts.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/norm.h"
#include "support/grad_check.h"

namespace moe {
namespace {

using testing::expect_gradients;
using testing::indices;
using testing::random_f64;

TEST(DenseOps, LinearGradientsMatchCentralDifferences) {
  expect_gradients([](const auto& in) { return ops::linear(in[0], in[1]); },
                   {random_f64({3, 4}, 1), random_f64({5, 4}, 2)});
}

TEST(DenseOps, ElementwiseGradientsMatchCentralDifferences) {
  const Tensor c = random_f64({2, 3}, 9);
  expect_gradients(
      [&](const auto& in) {
        return ops::multiply_add(ops::tanh(ops::add(in[0], in[1])), ops::softplus(in[1], 0.01), c);
      },
      {random_f64({2, 3}, 1), random_f64({2, 3}, 2)});
}

TEST(DenseOps, RmsNormGradientsMatchCentralDifferences) {
  expect_gradients([](const auto& in) { return ops::rmsnorm(in[0], in[1], 1e-5); },
                   {random_f64({3, 5}, 1), random_f64({5}, 2)});
}

TEST(DenseOps, RmsNormRejectsAWeightOfTheWrongLength) {
  EXPECT_THROW(ops::rmsnorm(Variable::constant(random_f64({1, 2}, 1)),
                            Variable::constant(random_f64({3}, 1)), 0),
               Error);
}

TEST(DenseOps, EmbeddingGradientsMatchCentralDifferencesWithPadding) {
  const Tensor ids = indices({2, 3}, {1, 0, 1, -1, 3, 1});
  expect_gradients([&](const auto& in) { return ops::embedding(in[0], ids); },
                   {random_f64({4, 3}, 1)});
}

TEST(DenseOps, EmbeddingNamesATokenBeyondTheVocabulary) {
  try {
    ops::embedding(Variable::constant(random_f64({4, 3}, 1)), indices({1, 1}, {4}));
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("token 4 lies beyond the vocabulary of 4"),
              std::string::npos);
  }
}

TEST(DenseOps, RopeAndAttentionGradientsMatchCentralDifferences) {
  ops::RopeTables tables{random_f64({6, 2}, 5), random_f64({6, 2}, 6)};
  const AttentionShape shape{2, 3, 3, 4, 2, 4};
  for (const bool documents : {false, true}) {
    const Tensor starts = documents ? indices({2, 3}, {0, 0, 2, 0, 1, 1}) : Tensor();
    const Tensor positions = documents ? indices({6}, {0, 1, 0, 0, 3, 1}) : Tensor();
    expect_gradients(
        [&](const auto& in) {
          return ops::attention(ops::rope(in[0], tables, positions, 4, 3, 1),
                                ops::rope(in[1], tables, positions, 2, 3, 1), in[2], starts, shape);
        },
        {random_f64({6, 16}, 1), random_f64({6, 8}, 2), random_f64({6, 8}, 3)}, 1e-5);
  }
}

TEST(DenseOps, DocumentsMustHaveTheShapeOfTheTokensAndNoCache) {
  const Variable q = Variable::constant(random_f64({6, 16}, 1)),
                 k = Variable::constant(random_f64({6, 8}, 2));
  EXPECT_THROW(ops::attention(q, k, k, indices({3}, {0, 0, 0}), {2, 3, 3, 4, 2, 4}), Error);
  EXPECT_THROW(ops::attention(Variable::constant(random_f64({2, 16}, 1)), k, k,
                              indices({2}, {0, 0}), {2, 1, 3, 4, 2, 4}),
               Error);
  const ops::RopeTables tables{random_f64({6, 2}, 5), random_f64({6, 2}, 6)};
  EXPECT_THROW(ops::rope(q, tables, indices({3}, {0, 0, 0}), 4, 3, 0), Error);
}

TEST(DenseOps, CrossEntropyGradientsMatchCentralDifferencesAndSkipUnscoredRows) {
  const Tensor labels = indices({4}, {1, -1, 0, 6});
  expect_gradients(
      [&](const auto& in) { return ops::linear_cross_entropy(in[0], in[1], labels, 0.25).loss; },
      {random_f64({4, 3}, 1), random_f64({7, 3}, 2)});
}

TEST(DenseOps, CrossEntropyScalesWithTheGradientItReceives) {
  const Tensor labels = indices({2}, {1, 0});
  expect_gradients(
      [&](const auto& in) {
        const Variable loss = ops::linear_cross_entropy(in[0], in[1], labels, 0.5).loss;
        return ops::add(loss, ops::add(loss, loss));
      },
      {random_f64({2, 3}, 1), random_f64({4, 3}, 2)});
}

TEST(DenseOps, DistillationGradientsMatchCentralDifferencesAndSkipUnscoredRows) {
  const Tensor labels = indices({4}, {1, -1, 0, 6});
  for (const auto& [temperature, weight, loss_weight] :
       {std::tuple(1.0, 0.5, 1.5), {3.0, 0.5, 0.0}, {2.0, 0.0, 1.0}}) {
    const ops::Taught taught{random_f64({4, 5}, 3), random_f64({7, 5}, 4), temperature, weight,
                             loss_weight};
    expect_gradients(
        [&](const auto& in) {
          return ops::linear_cross_entropy(in[0], in[1], labels, 0.25, taught).loss;
        },
        {random_f64({4, 3}, 1), random_f64({7, 3}, 2)});
  }
}

TEST(DenseOps, ATeacherInAllChunksGivesTheLossOfItsRowsAlone) {
  // More rows than one chunk of 32 MB holds.
  const std::int64_t rows = 40, vocabulary = 1 << 18;
  const Tensor x = random_f64({rows, 2}, 1), head = random_f64({vocabulary, 2}, 2),
               tx = random_f64({rows, 3}, 3), th = random_f64({vocabulary, 3}, 4);
  const Tensor labels = Tensor::zeros({rows}, DType::i32);
  const auto loss = [&](std::int64_t first, std::int64_t n) {
    return ops::linear_cross_entropy(Variable::constant(x.slice(first, n)),
                                     Variable::constant(head), labels.slice(first, n), 1,
                                     {tx.slice(first, n), th, 2, 1, 1});
  };
  const ops::CrossEntropy all = loss(0, rows);
  for (const std::int64_t row : {0, 15, 16, 39})
    EXPECT_DOUBLE_EQ(all.token_divergence.data<double>()[row],
                     loss(row, 1).token_divergence.data<double>()[0]);
}

TEST(DenseOps, ATeacherOfOtherRowsOrAnotherVocabularyIsRefused) {
  const Variable x = Variable::constant(random_f64({4, 3}, 1)),
                 head = Variable::constant(random_f64({7, 3}, 2));
  const Tensor labels = indices({4}, {1, 1, 1, 1});
  const auto refuses = [&](const ops::Taught& taught) {
    EXPECT_THROW(ops::linear_cross_entropy(x, head, labels, 1, taught), Error);
  };
  refuses({random_f64({3, 5}, 3), random_f64({7, 5}, 4)});
  refuses({random_f64({4, 5}, 3), random_f64({8, 5}, 4)});
  refuses({random_f64({4, 5}, 3), random_f64({7, 6}, 4)});
  refuses({random_f64({4, 5}, 3), random_f64({7, 5}, 4), 0});
  refuses({random_f64({4, 5}, 3), random_f64({7, 5}, 4), 1, 0, 0});
}

TEST(DenseOps, ExpertFfnGradientsMatchCentralDifferencesWithUnevenAndIdleExperts) {
  expect_gradients(
      [](const auto& in) {
        return ops::expert_ffn(in[0], in[1], in[2], in[3], {0, 3, 3, 5}, {0, 2, 3, 6});
      },
      {random_f64({5, 4}, 1), random_f64({6, 4}, 2), random_f64({6, 4}, 3), random_f64({6, 4}, 4)});
}

TEST(DenseOps, AnIdleExpertGetsAZeroGradientFromPoisonedMemory) {
  poison_new_memory(true);
  std::vector<Variable> in;
  for (std::uint64_t i = 0; i < 4; ++i)
    in.push_back(Variable::leaf(random_f64({i == 0 ? 2 : 4, 3}, i)));
  Tape tape;
  const Variable y = ops::expert_ffn(in[0], in[1], in[2], in[3], {0, 2, 2}, {0, 2, 4});
  const Tensor dy = random_f64({2, 3}, 8);
  tape.backward(std::span(&y, 1), std::span<const Tensor>(&dy, 1));
  poison_new_memory(false);
  for (std::size_t w = 1; w < 4; ++w)
    for (int i = 6; i < 12; ++i) EXPECT_EQ(in[w].slot->grad.data<double>()[i], 0);
}

}  // namespace
}  // namespace moe
