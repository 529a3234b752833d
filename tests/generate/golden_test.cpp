// SPDX-License-Identifier: Apache-2.0
// Real small LLaMAs against figures computed in f64 by other code.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "generate/generator.h"
#include "hf/safetensors.h"
#include "split/split_model.h"
#include "support/realdata.h"
#include "support/stories260k.h"
#include "train/model_source.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::realdata;

Json golden(const char* model) {
  std::ifstream in(realdata() / "models/GOLDEN.json");
  return Json::parse(in).at(model);
}

struct Nll {
  double loss = 0;
  std::int64_t tokens = 0;
};

/// Each story alone: every id after its first is scored; the mean over all.
Nll nll(const Transformer& model, const std::vector<std::vector<std::int32_t>>& stories) {
  Nll result;
  for (const std::vector<std::int32_t>& ids : stories) {
    const auto n = std::int64_t(ids.size()) - 1;
    const Tensor tokens = Tensor::of<std::int32_t>({1, n}, {ids.begin(), ids.end() - 1});
    const Tensor labels = Tensor::of<std::int32_t>({1, n}, {ids.begin() + 1, ids.end()});
    const Tensor losses = model.loss(tokens, labels, 1, {}).token_loss;
    for (std::int64_t t = 0; t < n; ++t) result.loss += losses.data<float>()[t];
    result.tokens += n;
  }
  result.loss /= double(result.tokens);
  return result;
}

std::vector<std::vector<std::int32_t>> stories_656k() {
  std::ifstream in(realdata() / "corpus/tinystories/stories40.tinystories-656k.jsonl");
  std::vector<std::vector<std::int32_t>> stories;
  for (std::string line; std::getline(in, line);)
    stories.push_back(Json::parse(line).at("input_ids"));
  return stories;
}

void expect_golden_ids(const Transformer& model, const Json& want, std::vector<std::int32_t> stop) {
  const std::vector<std::int32_t> ids = want.at("greedy_ids_from_bos1");
  GenerateOptions options;
  options.max_tokens = std::int64_t(ids.size()) - 1;
  options.stop = std::move(stop);
  EXPECT_EQ(generate(model, std::vector<std::int32_t>{ids[0]}, options),
            std::vector<std::int32_t>(ids.begin() + 1, ids.end()));
}

TEST(Golden, TinyStories656kGreedyIdsAndLoss) {
  MOE_SKIP_WITHOUT_REALDATA("models/tinystories-656k");
  const Json want = golden("tinystories-656k");
  const LoadedModel loaded(open_model(realdata() / "models/tinystories-656k"), DType::f32);
  expect_golden_ids(loaded.model(), want, {});
  const Nll got = nll(loaded.model(), stories_656k());
  EXPECT_EQ(got.tokens, want.at("stories40_tokens"));
  EXPECT_NEAR(got.loss, want.at("stories40_nll_per_token").get<double>(), 1e-5);
  EXPECT_NEAR(got.loss, 2.8816, 1e-4);
}

/// The ids that the golden figures were made with: BOS, then the text with double spaces kept,
/// which sentencepiece's normaliser would make single; cut at the model's 512 positions.
std::vector<std::int32_t> llama2c_ids(const Tokenizer& tokenizer, const std::string& text) {
  const std::int32_t x = tokenizer.encode("x").back();
  std::int32_t space = 0;
  while (tokenizer.decode(std::vector{x, space}) != tokenizer.decode(std::vector{x}) + " ") ++space;
  std::vector<std::int32_t> ids = {tokenizer.bos_id()};
  for (std::size_t first = 0, end; first < text.size(); first = end + 1) {
    end = std::min(text.find("  ", first), text.size());
    for (const std::int32_t id : tokenizer.encode(text.substr(first, end - first)))
      ids.push_back(id);
    if (end < text.size()) ids.push_back(space);
  }
  ids.resize(std::min<std::size_t>(ids.size(), 512));
  return ids;
}

TEST(Golden, Stories260kThroughItsConverterAndTokenizer) {
  MOE_SKIP_WITHOUT_REALDATA("models/stories260K");
  const Json want = golden("stories260K");
  const fs::path folder = fs::path(::testing::TempDir()) / "stories260K";
  testing::convert_llama2c(realdata() / "models/stories260K/stories260K.bin", folder);
  const LoadedModel loaded(open_model(folder), DType::f32);
  expect_golden_ids(loaded.model(), want, {});

  const Tokenizer tokenizer = Tokenizer::open(realdata() / "models/stories260K/tok512.model");
  std::ifstream in(realdata() / "corpus/tinystories/stories40.json");
  std::vector<std::vector<std::int32_t>> stories;
  for (const std::string text : Json::parse(in)) stories.push_back(llama2c_ids(tokenizer, text));
  const Nll got = nll(loaded.model(), stories);
  EXPECT_EQ(got.tokens, want.at("stories40_tokens"));
  EXPECT_NEAR(got.loss, 1.2531, 1e-4);
}

fs::path split_656k(std::int64_t experts, std::int64_t k, GateInit gate) {
  SplitOptions o;
  o.input = realdata() / "models/tinystories-656k";
  o.output = fs::path(::testing::TempDir()) / str("split-", experts, "-", k, "-", int(gate));
  o.experts = experts;
  o.top_k = k;
  o.gate = gate;
  o.scale = double(experts);  // zero gates weigh 1/k: the expectation stays the dense output
  o.force = true;
  split_model(o);
  return o.output;
}

class SplitOfRealModel : public ::testing::TestWithParam<std::int64_t> {};

TEST_P(SplitOfRealModel, WithAllExpertsAndZeroGatesGivesTheDenseLogits) {
  MOE_SKIP_WITHOUT_REALDATA("models/tinystories-656k");
  const std::int64_t experts = GetParam();
  const fs::path moe = split_656k(experts, experts, GateInit::zeros);
  const std::vector<std::int32_t> story = stories_656k()[3];
  const Tensor tokens = Tensor::of<std::int32_t>({1, std::int64_t(story.size())}, story);
  for (const DType dtype : {DType::f64, DType::f32}) {
    const LoadedModel dense(open_model(realdata() / "models/tinystories-656k"), dtype);
    const LoadedModel split(open_model(moe), dtype);
    EXPECT_EQ(split.model().config().moe.experts, experts);
    const Tensor want = dense.model().logits(tokens, {}), got = split.model().logits(tokens, {});
    double difference = 0, largest = 0;
    for_accumulator(dtype, [&]<class A>(A) {
      for (std::int64_t i = 0; i < want.size(); ++i) {
        const double w = want.data<A>()[i];
        difference = std::max(difference, std::abs(w - got.data<A>()[i]));
        largest = std::max(largest, std::abs(w));
      }
    });
    // f64 shows that the function is the same; f32 rounds the sums over neurons in another order.
    EXPECT_LT(difference, dtype == DType::f64 ? 1e-12 * largest : 1e-6 * largest) << name(dtype);
  }
}

TEST_P(SplitOfRealModel, LosesMoreTheFewerExpertsAreChosen) {
  MOE_SKIP_WITHOUT_REALDATA("models/tinystories-656k");
  const std::int64_t experts = GetParam();
  const ModelSource source = open_model(split_656k(experts, experts, GateInit::zeros));
  auto stories = stories_656k();
  stories.resize(10);
  double all_experts = 0;
  for (std::int64_t k = experts; k >= 1; k /= 2) {
    ModelSource fewer = source;
    fewer.config.moe.top_k = k;
    const double loss = nll(LoadedModel(fewer, DType::f32).model(), stories).loss;
    std::cout << "  " << experts << " experts, top-" << k << ": NLL " << loss << "\n";
    if (k == experts) {
      all_experts = loss;
    } else {
      EXPECT_GT(loss, all_experts);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Experts, SplitOfRealModel, ::testing::Values(4, 8, 16));

class TransformersFixture : public ::testing::TestWithParam<const char*> {};

TEST_P(TransformersFixture, HasTheLogitsThatTransformersComputed) {
  const fs::path folder = fs::path(MOE_SOURCE_DIR) / "tests/hf/fixtures" / GetParam();
  const SafetensorsFile expected(folder / "expected.safetensors");
  const Tensor want = expected.read("logits");
  std::vector<std::int32_t> ids(std::size_t(want.rows()));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::int64_t id = 0;
    std::memcpy(&id, expected.bytes("input_ids").data() + 8 * i, 8);
    ids[i] = std::int32_t(id);
  }
  const LoadedModel loaded(open_model(folder), DType::f32);
  const Tensor got =
      loaded.model().logits(Tensor::of<std::int32_t>({1, std::int64_t(ids.size())}, ids), {});
  ASSERT_EQ(got.size(), want.size());
  for (std::int64_t i = 0; i < want.size(); ++i)
    ASSERT_NEAR(got.data<float>()[i], want.data<float>()[i], 1e-5) << "element " << i;
}
INSTANTIATE_TEST_SUITE_P(Models, TransformersFixture,
                         ::testing::Values("llama", "llama3", "mixtral"));

TEST(Generate, SamplesTheSameWithTheSameSeedAndNeverBeyondTheModel) {
  MOE_SKIP_WITHOUT_REALDATA("models/tinystories-656k");
  const LoadedModel loaded(open_model(realdata() / "models/tinystories-656k"), DType::f32);
  const std::vector<std::int32_t> prompt = {1};
  GenerateOptions o;
  o.max_tokens = 20;
  o.temperature = 1;
  const auto a = generate(loaded.model(), prompt, o), b = generate(loaded.model(), prompt, o);
  EXPECT_EQ(a, b);
  o.seed = 43;
  EXPECT_NE(generate(loaded.model(), prompt, o), a);
  EXPECT_THROW(generate(loaded.model(), {}, o), InputError);
  EXPECT_THROW(generate(loaded.model(), std::vector<std::int32_t>{2048}, o), InputError);
}

}  // namespace
}  // namespace moe
