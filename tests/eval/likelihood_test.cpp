// SPDX-License-Identifier: Apache-2.0
#include "eval/likelihood.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "eval/eval_support.h"
#include "eval/task_metrics.h"
#include "train/model_source.h"

namespace moe {
namespace {

using Ids = std::vector<std::int32_t>;

/// A token for each byte, but "ab" and " c" are one.
Ids encode(std::string_view text) {
  Ids ids;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::string_view two = text.substr(i, 2);
    if (two == "ab" || two == " c") {
      ids.push_back(two == "ab" ? 1000 : 1001);
      ++i;
    } else {
      ids.push_back(std::int32_t(text[i]));
    }
  }
  return ids;
}

TEST(EncodeRequest, MovesSpacesToTheContinuationAndCutsBehindTheContext) {
  const EncodedRequest r = encode_request({"xy ", "cd"}, encode, 1, 100, "");
  EXPECT_EQ(r.ids, (Ids{1, 'x', 'y', 1001, 'd'}));
  EXPECT_EQ(r.continuation, 2);
  EXPECT_FALSE(r.truncated);
  // A token over the border counts for the context, whose ids are counted alone.
  const EncodedRequest over = encode_request({"xa", "bd"}, encode, {}, 100, "");
  EXPECT_EQ(over.ids, (Ids{'x', 1000, 'd'}));
  EXPECT_EQ(over.continuation, 1);
  // Nothing but BOS before it.
  const EncodedRequest empty = encode_request({" ", "c"}, encode, 1, 100, "");
  EXPECT_EQ(empty.ids, (Ids{1, 1001}));
  EXPECT_EQ(empty.continuation, 1);
}

TEST(EncodeRequest, CutsLongContextsOnTheLeftBehindBos) {
  const EncodedRequest r = encode_request({"pqrst", " cd"}, encode, 1, 4, "");
  // Four inputs: BOS, s, t and the first of the continuation; the last id is only predicted.
  EXPECT_EQ(r.ids, (Ids{1, 's', 't', 1001, 'd'}));
  EXPECT_TRUE(r.truncated);
  const EncodedRequest without = encode_request({"pqrst", " cd"}, encode, {}, 4, "");
  EXPECT_EQ(without.ids, (Ids{'r', 's', 't', 1001, 'd'}));
  const EncodedRequest most = encode_request({"pq", "defg"}, encode, 1, 4, "");
  EXPECT_EQ(most.ids, (Ids{1, 'd', 'e', 'f', 'g'}));
  EXPECT_FALSE(encode_request({"pq", "de"}, encode, 1, 4, "").truncated);
}

TEST(EncodeRequest, RefusesWhatCannotBeScored) {
  const auto said = [](const Request& request, std::optional<std::int32_t> bos) {
    return testing::refusal([&] { encode_request(request, encode, bos, 4, "f:3"); });
  };
  EXPECT_EQ(said({"xa", "b"}, 1), "f:3: the continuation 'b' has no tokens of its own");
  EXPECT_EQ(said({"", "b"}, {}),
            "f:3: nothing stands before the continuation, and the model has no BOS");
  EXPECT_EQ(said({"x", "defgh"}, 1),
            "f:3: the continuation has 5 tokens, more than the 4 positions that the model has");
}

LoadedModel small_model(bool experts) {
  ModelConfig c;
  c.vocab_size = 30;
  c.hidden_size = 16;
  c.intermediate_size = 24;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.max_positions = 32;
  c.initializer_range = 0.5;
  if (experts) {
    c.moe.experts = 4;
    c.moe.top_k = 2;
    c.moe.gate_noise = false;
    c.moe.expert_sizes.assign(2, {6, 6, 6, 6});
    c.moe.score_scale = {2, 2};
  }
  return LoadedModel({c, initial_weights(c, 5), {}}, DType::f64);
}

std::vector<EncodedRequest> some_requests() {
  std::vector<EncodedRequest> requests;
  const Philox random(1, RandomPurpose::test);
  for (std::int64_t r = 0; r < 23; ++r) {
    EncodedRequest request;
    request.continuation = 1 + r % 4;
    const std::int64_t length = request.continuation + 1 + (r * 7) % 11;
    for (std::int64_t i = 0; i < length; ++i)
      request.ids.push_back(std::int32_t(random.below(std::uint64_t(100 * r + i), 30)));
    requests.push_back(request);
  }
  return requests;
}

/// One request alone, from all the logits of the model, by the definition.
RequestScore expected_score(const Transformer& model, EncodedRequest request) {
  const auto n = std::int64_t(request.ids.size()) - 1;
  const Tensor logits = model.logits(
      Tensor::of<std::int32_t>({1, n}, {request.ids.begin(), request.ids.end() - 1}), {});
  RequestScore score{0, request.continuation, true};
  for (std::int64_t i = n - request.continuation; i < n; ++i) {
    const double* l = logits.data<double>() + i * logits.cols();
    double total = 0;
    for (std::int64_t v = 0; v < logits.cols(); ++v) total += std::exp(l[v]);
    const std::int32_t id = request.ids[std::size_t(i) + 1];
    score.log_likelihood += l[id] - std::log(total);
    score.greedy = score.greedy && std::max_element(l, l + logits.cols()) - l == id;
  }
  return score;
}

TEST(ScoreRequests, GivesEachWhatItHasAloneAtAnyBatchOnAnyRanks) {
  for (const bool experts : {false, true}) {
    const LoadedModel loaded = small_model(experts);
    std::vector<EncodedRequest> requests = some_requests();
    // One whose continuation is what the model itself would write.
    for (int i = 0; i < 2; ++i) {
      const auto n = std::int64_t(requests[0].ids.size());
      const Tensor l =
          loaded.model().logits(Tensor::of({1, n}, requests[0].ids), {}).slice(n - 1, 1);
      requests[0].ids.push_back(std::int32_t(
          std::max_element(l.data<double>(), l.data<double>() + 30) - l.data<double>()));
    }
    requests[0].continuation = 2;
    std::vector<RequestScore> want;
    for (const EncodedRequest& r : requests) want.push_back(expected_score(loaded.model(), r));
    EXPECT_TRUE(want[0].greedy);
    EXPECT_GT(std::count_if(want.begin(), want.end(), [](auto& w) { return !w.greedy; }), 15);
    const auto expect_same = [&](const std::vector<RequestScore>& got, const std::string& how) {
      ASSERT_EQ(got.size(), want.size());
      for (std::size_t r = 0; r < got.size(); ++r) {
        EXPECT_NEAR(got[r].log_likelihood, want[r].log_likelihood, 1e-12) << how << ", " << r;
        EXPECT_EQ(got[r].tokens, want[r].tokens) << how << ", " << r;
        EXPECT_EQ(got[r].greedy, want[r].greedy) << how << ", " << r;
      }
    };
    for (const std::int64_t batch : {1, 2, 5, 100})
      expect_same(score_requests(loaded.model(), requests, batch, loaded.world()),
                  str("batch ", batch));
    run_ranks(3, [&](Communicator& world) {
      const LoadedModel own = small_model(experts);
      expect_same(score_requests(own.model(), requests, 2, world), str("rank ", world.rank()));
    });
  }
}

Question question_with(std::vector<std::string> options, std::size_t gold) {
  return {"", std::vector<std::string>(options.size(), "c"), std::move(options), gold};
}

TEST(TaskMetrics, NormaliseByCharactersBytesAndTokens) {
  // Log-likelihoods over 1; 8, 4, 5 characters; 8, 12, 5 bytes; 2, 1, 4 tokens.
  const Question q = question_with({"elephant", "\u732b\u732b\u732b\u732b", " tiger"}, 0);
  const std::vector<RequestScore> s = {{-6, 2, false}, {-5, 1, false}, {-4, 4, false}};
  // sum: -6, -5, -4; characters: -.75, -1.25, -.8; bytes: -.75, -.417, -.8; tokens: -3, -5, -1.
  const auto right = [&](std::size_t gold) {
    Question asked = q;
    asked.gold = gold;
    return question_values(asked, s, TaskForm::choices);
  };
  EXPECT_EQ(right(0), (std::vector<double>{0, 1, 0, 0}));
  EXPECT_EQ(right(1), (std::vector<double>{0, 0, 1, 0}));
  EXPECT_EQ(right(2), (std::vector<double>{1, 0, 0, 1}));
  const std::vector<RequestScore> tie = {{-2, 1, false}, {-2, 1, false}};
  EXPECT_EQ(question_values(question_with({"x", "y"}, 0), tie, TaskForm::choices)[0], 1);
  EXPECT_EQ(question_values(question_with({"x", "y"}, 1), tie, TaskForm::choices)[0], 0);
}

TEST(TaskMetrics, OfSeveralRightOptionsAreTheirShareOfTheProbability) {
  Question q = question_with({"a", "b", "c"}, 0);
  q.right = {true, false, true};
  const double l = -1000;  // far below what exp() can tell from 0
  const std::vector<RequestScore> s = {
      {l + std::log(1.0), 1, false}, {l + std::log(5.0), 1, false}, {l + std::log(2.0), 1, false}};
  EXPECT_NEAR(question_values(q, s, TaskForm::several).at(0), 3.0 / 8, 1e-12);
  EXPECT_EQ(metric_names(TaskForm::several), (std::vector<std::string>{"acc"}));
}

TEST(TaskMetrics, HaveTheStandardErrorOfAMean) {
  const std::vector<std::vector<double>> values = {{1, -1}, {0, -2}, {1, -4}, {0, -1}, {1, -2}};
  const auto m = summarize(values, TaskForm::continuation);
  EXPECT_EQ(m[0].name, "acc");
  EXPECT_DOUBLE_EQ(m[0].value, 0.6);
  EXPECT_DOUBLE_EQ(*m[0].standard_error, std::sqrt(0.3 / 5));
  EXPECT_EQ(m[1].name, "perplexity");
  EXPECT_DOUBLE_EQ(m[1].value, std::exp(2.0));
  EXPECT_NEAR(*m[1].standard_error, std::exp(2.0) * std::sqrt(1.5 / 5), 1e-12);
  EXPECT_FALSE(m[1].higher_is_better);
  EXPECT_FALSE(summarize({{1, -1}}, TaskForm::continuation)[0].standard_error.has_value());
}

TEST(TaskMetrics, OfSubsetsCountEveryQuestionOnceAndPoolTheirErrors) {
  const std::vector<std::vector<std::vector<double>>> subsets = {{{1, 0}, {0, 0}, {1, 0}},
                                                                 {{0, 0}, {0, 0}}};
  const auto m = pool(subsets, TaskForm::continuation);
  EXPECT_DOUBLE_EQ(m[0].value, 0.4);
  // ((3 - 1) * 1/3 + (2 - 1) * 0) / (5 - 2), of the mean of five.
  EXPECT_DOUBLE_EQ(*m[0].standard_error, std::sqrt((2.0 / 3) / 3 / 5));
}

}  // namespace
}  // namespace moe
