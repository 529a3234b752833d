// SPDX-License-Identifier: Apache-2.0
#include "generate/generator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "config/model_parameters.h"
#include "train/model_source.h"

namespace moe {
namespace {

using Ids = std::vector<std::int32_t>;

ModelConfig dense_config() {
  ModelConfig c;
  c.vocab_size = 40;
  c.hidden_size = 16;
  c.intermediate_size = 24;
  c.layers = 3;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.max_positions = 32;
  return c;
}

/// Experts in the first and the last layer.
ModelConfig expert_config() {
  ModelConfig c = dense_config();
  c.moe.experts = 4;
  c.moe.top_k = 2;
  c.moe.gate_noise = false;
  c.moe.expert_sizes = {{6, 6, 6, 6}, {}, {5, 7, 3, 9}};
  c.moe.score_scale = {2, 2, 2};
  return c;
}

LoadedModel loaded(const ModelConfig& config, DType dtype = DType::f64) {
  // Large weights make the likeliest token depend on the text.
  const ParameterRows rows = [plain = initial_weights(config, 3)](
                                 const std::string& name, std::int64_t first, std::int64_t count) {
    const Tensor t = plain(name, first, count).clone();
    if (name.starts_with("layers.") && name.find("norm") == std::string::npos)
      for_accumulator(t.dtype(), [&]<class A>(A) {
        for (std::int64_t i = 0; i < t.size(); ++i) t.data<A>()[i] *= A(50);
      });
    return t;
  };
  return LoadedModel({config, rows, {}}, dtype);
}

const std::vector<Ids> kPrompts = {{1, 5, 9, 12}, {1}, {1, 30, 2, 2, 7, 8, 9}, {1, 39}, {4, 4, 4}};

class Generator : public ::testing::TestWithParam<bool> {
 protected:
  const LoadedModel model_ = loaded(GetParam() ? expert_config() : dense_config());
};

TEST_P(Generator, ChoosesWhatTheWholeTextWithoutACacheMakesLikeliest) {
  for (const Ids& prompt : kPrompts) {
    GenerateOptions o;
    o.max_tokens = 12;
    const Ids got = generate(model_.model(), prompt, o);
    ASSERT_EQ(got.size(), 12u);
    Ids text = prompt;
    for (const std::int32_t id : got) {
      const auto n = std::int64_t(text.size());
      const Tensor logits = model_.model().logits(Tensor::of({1, n}, text), {}).slice(n - 1, 1);
      const auto* l = logits.data<double>();
      EXPECT_EQ(id, std::max_element(l, l + 40) - l) << "after " << n << " tokens";
      text.push_back(id);
    }
    EXPECT_GT(std::set<std::int32_t>(got.begin(), got.end()).size(), 2u) << "a dull model";
  }
}

TEST_P(Generator, GivesEachPromptOfABatchWhatItGivesItAlone) {
  for (const double temperature : {0.0, 1.0}) {
    GenerateOptions o;
    o.max_tokens = 14;
    o.temperature = temperature;
    o.repetition_penalty = 1.2;
    o.routing = true;
    o.stop = {7};
    const auto alone = generate_texts(model_.model(), kPrompts, o);
    for (const std::int64_t batch : {2, 3, 8}) {
      o.batch = batch;
      const auto together = generate_texts(model_.model(), kPrompts, o);
      ASSERT_EQ(together.size(), kPrompts.size());
      for (std::size_t p = 0; p < kPrompts.size(); ++p) {
        EXPECT_EQ(together[p].ids, alone[p].ids) << "prompt " << p << ", batch " << batch;
        EXPECT_EQ(together[p].stopped, alone[p].stopped);
        ASSERT_EQ(together[p].routing.layers.size(), alone[p].routing.layers.size());
        for (std::size_t l = 0; l < alone[p].routing.layers.size(); ++l)
          EXPECT_EQ(together[p].routing.layers[l].experts, alone[p].routing.layers[l].experts);
      }
    }
  }
}

TEST_P(Generator, FillsTheModelsPositionsAndNoMore) {
  GenerateOptions o;
  o.max_tokens = 100;
  const auto texts = generate_texts(model_.model(), {{1, 2, 3, 4}}, o);
  // The token after the last position can still be drawn.
  EXPECT_EQ(texts[0].ids.size(), 32u - 4 + 1);
  EXPECT_FALSE(texts[0].stopped);
}

INSTANTIATE_TEST_SUITE_P(Models, Generator, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "Experts" : "Dense"; });

TEST(Generate, TellsWhichExpertsEachTokenChose) {
  const ModelConfig config = expert_config();
  const LoadedModel model = loaded(config);
  GenerateOptions o;
  o.max_tokens = 5;
  o.routing = true;
  const Ids prompt = {1, 5, 9};
  const GeneratedText text = generate_texts(model.model(), {prompt}, o).front();
  Ids seen = prompt;
  seen.insert(seen.end(), text.ids.begin(), text.ids.end() - 1);
  const auto n = std::int64_t(seen.size());
  std::vector<ExpertChoice> want;
  ForwardContext context;
  context.routing.choices = &want;
  model.model().logits(Tensor::of({1, n}, seen), context);
  ASSERT_EQ(text.routing.layers.size(), 2u);
  ASSERT_EQ(want.size(), 2u);
  for (std::size_t l = 0; l < 2; ++l) {
    const TextRouting::Layer& layer = text.routing.layers[l];
    EXPECT_EQ(layer.layer, l == 0 ? 0 : 2);
    EXPECT_EQ(layer.top_k, 2);
    ASSERT_EQ(std::int64_t(layer.experts.size()), 2 * n);
    for (std::int64_t i = 0; i < 2 * n; ++i) {
      EXPECT_EQ(layer.experts[std::size_t(i)], want[l].experts.data<std::int32_t>()[i]) << i;
      EXPECT_NEAR(layer.weights[std::size_t(i)], want[l].weights.data<double>()[i], 1e-12) << i;
    }
  }
  const LoadedModel dense = loaded(dense_config());
  EXPECT_TRUE(generate_texts(dense.model(), {prompt}, o).front().routing.layers.empty());
}

TEST(Generate, EndsATextWhereItsListenerSaysSo) {
  const LoadedModel model = loaded(dense_config());
  GenerateOptions o;
  o.max_tokens = 10;
  o.batch = 2;
  std::vector<int> heard(2, 0);
  GenerateTimes times;
  const auto texts = generate_texts(
      model.model(),
      {
          {1, 2},
          {3},
      },
      o, [&](std::size_t p, std::int32_t) { return ++heard[p] < (p == 0 ? 3 : 100); }, &times);
  EXPECT_EQ(texts[0].ids.size(), 3u);
  EXPECT_TRUE(texts[0].stopped);
  EXPECT_EQ(texts[1].ids.size(), 10u);
  EXPECT_FALSE(texts[1].stopped);
  EXPECT_EQ(times.prompt_tokens, 3);
  EXPECT_EQ(times.new_tokens, 2 + 9) << "the first new token of each comes with the prompt";
}

TEST(Generate, RefusesPromptsThatTheModelCannotTakeByTheirNumber) {
  const LoadedModel model = loaded(dense_config());
  const auto said = [&](const std::vector<Ids>& prompts) -> std::string {
    try {
      generate_texts(model.model(), prompts, {});
    } catch (const InputError& e) {
      return e.what();
    }
    return "nothing";
  };
  EXPECT_EQ(said({{1}, {}}), "prompt 2: an empty prompt: give at least the BOS token");
  EXPECT_EQ(said({{1}, {2}, {40}}), "prompt 3: prompt token 40 lies beyond the vocabulary of 40");
  EXPECT_EQ(said({Ids(33, 1)}), "a prompt of 33 tokens exceeds the model's 32 positions");
}

}  // namespace
}  // namespace moe
