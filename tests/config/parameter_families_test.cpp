// SPDX-License-Identifier: Apache-2.0
#include "config/parameter_families.h"

#include <gmock/gmock.h>

#include "core/error.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const InputError& e) {
    return e.what();
  }
  return "none";
}

ModelConfig dense() {
  ModelConfig c;
  c.vocab_size = 10;
  c.hidden_size = 4;
  c.intermediate_size = 6;
  c.layers = 2;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_dim = 2;
  return c;
}

ModelConfig mixture() {
  ModelConfig c = dense();
  c.moe.experts = 2;
  c.moe.expert_sizes = {{3, 3}, {}};
  c.moe.shared_sizes = {{2}, {}};
  c.moe.shared_gate = true;
  c.moe.selection_bias = true;
  c.moe.score_scale = {1, 1};
  return c;
}

TEST(ParameterFamilies, AreToldFromWholePartsOfTheName) {
  using F = ParameterFamily;
  EXPECT_EQ(family_of("embed.weight"), F::embeddings);
  EXPECT_EQ(family_of("head.weight"), F::embeddings);
  EXPECT_EQ(family_of("norm.weight"), F::norms);
  EXPECT_EQ(family_of("layers.10.attention_norm.weight"), F::norms);
  EXPECT_EQ(family_of("layers.0.ffn_norm.weight"), F::norms);
  EXPECT_EQ(family_of("layers.0.attention.q.weight"), F::attention);
  EXPECT_EQ(family_of("layers.0.attention.experts.q.weight"), F::attention);
  EXPECT_EQ(family_of("layers.0.attention.router.weight"), F::router);
  EXPECT_EQ(family_of("layers.0.router.noise.weight"), F::router);
  EXPECT_EQ(family_of("layers.0.router.selection_bias"), F::router);
  EXPECT_EQ(family_of("layers.0.shared_router.weight"), F::router);
  EXPECT_EQ(family_of("layers.0.experts.gate.weight"), F::experts);
  EXPECT_EQ(family_of("layers.0.shared.gate.weight"), F::shared);
  EXPECT_EQ(family_of("layers.0.ffn.gate.weight"), F::ffn);
  EXPECT_THROW((void)family_of("layers.0.experts_gate.weight"), Error);
  EXPECT_THROW((void)family_of("gate"), Error);
}

TEST(ParameterFamilies, CoverEveryParameterOfAModelOnce) {
  const FrozenPlan plan = plan_frozen({}, mixture());
  EXPECT_EQ(plan.families.size(), kParameterFamilyNames.size());
  EXPECT_EQ(plan.frozen, 0);
  // The noise weights and the selection bias, which a count of parameters leaves out or not, are
  // the router's here.
  std::int64_t all = 0;
  for (const ParameterSpec& p : model_parameters(mixture())) {
    std::int64_t size = 1;
    for (const std::int64_t n : p.shape) size *= n;
    all += size;
  }
  EXPECT_EQ(plan.trained, all);
}

TEST(ParameterFamilies, ThePlanCountsWhatIsTrainedAndWhatIsFrozen) {
  const FrozenPlan plan = plan_frozen(std::vector<std::string>{"embeddings", "norms"}, dense());
  EXPECT_EQ(plan.frozen, 2 * 10 * 4 + 5 * 4);
  EXPECT_EQ(plan.trained, 2 * (2 * 16 + 2 * 8) + 2 * 3 * 6 * 4);
  EXPECT_EQ(to_text(plan),
            "trained: attention (96), ffn (144); frozen: embeddings (80), norms (20)");
}

TEST(ParameterFamilies, WhatCannotBeFrozenIsRefusedWithTheReason) {
  const auto error = [](std::vector<std::string> freeze, const ModelConfig& model) {
    return error_of([&] { (void)plan_frozen(freeze, model); });
  };
  EXPECT_EQ(error({"routers"}, mixture()),
            "train.freeze: 'routers' is no family of parameters: there are embeddings, norms, "
            "attention, router, experts, shared and ffn");
  EXPECT_EQ(error({"norms", "norms"}, mixture()), "train.freeze: norms is given twice");
  EXPECT_EQ(error({"experts"}, dense()),
            "train.freeze: the model has no parameters of the family experts");
  EXPECT_THAT(error({"embeddings", "norms", "attention", "ffn"}, dense()),
              HasSubstr("train.freeze leaves nothing to train"));
}

}  // namespace
}  // namespace moe
