// SPDX-License-Identifier: Apache-2.0
// Runs whose mixture moves with the held-out losses, whose domains end, whose documents are packed.
#include <gmock/gmock.h>

#include "data/mixture.h"
#include "train/batch_feed.h"
#include "train/run_fixture.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class MixtureRunTest : public testing::RunFixture {
 protected:
  TrainConfig dynamic(const std::string& run, std::int64_t steps, std::int64_t ep = 1) const {
    TrainConfig c = config(run, steps, ep);
    c.train.eval_every = 4;
    c.train.checkpoint_every = 6;
    c.train.keep_last = 100;
    c.data.held_out.push_back({"b", {(folder_ / "b.h5").string()}});
    c.data.mixture = {.dynamic = true, .rate = 1.5, .smoothing = 0.01};
    c.data.train[0].reference_loss = 3;
    c.data.train[1].reference_loss = 3.9;
    c.validate();
    return c;
  }

  std::vector<json> lines(const std::string& run) const {
    std::ifstream in(folder_ / run / "metrics.jsonl");
    std::vector<json> all;
    for (std::string line; std::getline(in, line);) all.push_back(json::parse(line));
    return all;
  }

  std::string refusal(const TrainConfig& c) const {
    try {
      train(1, c);
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  }
};

TEST_F(MixtureRunTest, WeightsFollowTheHeldOutLossesAfterEachEvaluation) {
  train(2, dynamic("run", 18));
  const auto all = lines("run");
  ASSERT_EQ(all.size(), 18u);
  std::vector<double> weights = {0.3, 0.7};
  const auto held = [](const json& line) {
    return line.contains("held_out_loss") && !line["held_out_loss"].empty();
  };
  int changes = 0;
  for (const json& line : all) {
    EXPECT_NEAR(line["domain_weights"]["a"].get<double>(), weights[0], 1e-15) << line["step"];
    if (!held(line)) continue;
    double total = 0;
    const double references[] = {3, 3.9};
    for (int d = 0; d < 2; ++d) {
      const double loss = line["held_out_loss"][d == 0 ? "a" : "b"];
      weights[std::size_t(d)] *= std::exp(1.5 * (loss - references[d]));
      total += weights[std::size_t(d)];
    }
    for (double& w : weights) w = 0.99 * w / total + 0.005;
    ++changes;
  }
  EXPECT_EQ(changes, 5);
  EXPECT_GT(weights[0], 0.5) << "the domain that is far above its reference gains";
}

TEST_F(MixtureRunTest, ADynamicMixtureResumesToTheBitAndOnOtherRanks) {
  train(2, dynamic("straight", 22));
  train(2, dynamic("run", 12));
  // Of step 6, between two evaluations.
  train(2, dynamic("run", 22), (folder_ / "run/checkpoints/step-00000006").string());
  EXPECT_EQ(curve("straight"), curve("run"));
  const auto a = lines("straight"), b = lines("run");
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i]["domain_weights"], b[i]["domain_weights"]);
    EXPECT_EQ(a[i]["domain_epochs"], b[i]["domain_epochs"]);
  }
  train(1, dynamic("other", 12));
  train(4, dynamic("other", 22, 2), "auto");
  const auto other = curve("other"), straight = curve("straight");
  for (std::size_t i = 0; i < straight.size(); ++i)
    EXPECT_NEAR(other[i][1], straight[i][1], 1e-5) << "step " << i + 1;
}

TEST_F(MixtureRunTest, ADomainThatCameOrWentStartsTheWeightsAnew) {
  train(1, dynamic("run", 8));
  TrainConfig changed = dynamic("run", 10);
  write_shard("c");
  changed.data.train.push_back({"c", {(folder_ / "c.h5").string()}, 1, 0, 3.5});
  changed.data.held_out.push_back({"c", {(folder_ / "c.h5").string()}});
  train(1, changed, "auto");
  const json line = lines("run")[8];
  EXPECT_NEAR(line["domain_weights"]["a"].get<double>(), 0.15, 1e-12);
  EXPECT_NEAR(line["domain_weights"]["c"].get<double>(), 0.5, 1e-12);
}

TEST_F(MixtureRunTest, EpochsAreCountedAndTheirLimitIsKept) {
  TrainConfig c = config("run", 20, 1);
  c.data.train[0].max_epochs = 1;
  train(1, c);
  const json last = lines("run").back();
  EXPECT_NEAR(last["domain_epochs"]["a"].get<double>(), 0.48, 0.2);
  c = config("long", 60, 1);
  c.data.train[0].max_epochs = 1;
  train(1, c);
  EXPECT_EQ(lines("long").back()["domain_epochs"]["a"], 1.0);
  c = config("longer", 60, 1);
  for (auto& d : c.data.train) d.max_epochs = 1;
  EXPECT_THAT(refusal(c), HasSubstr("within their max_epochs, the run needs 480"));
}

TEST_F(MixtureRunTest, PackedAndMaskedRunsAreTheSameOnAnyRanksAndResume) {
  for (const Packing packing : {Packing::concatenate, Packing::best_fit}) {
    const auto packed = [&](const std::string& run, std::int64_t steps, std::int64_t ep) {
      TrainConfig c = config(run + std::to_string(int(packing)), steps, ep);
      c.data.packing = {packing, true};
      c.data.sequence_length = 24;
      c.train.eval_every = 5;
      return c;
    };
    train(1, packed("one", 12, 1));
    train(4, packed("four", 12, 2));
    train(1, packed("again", 5, 1));
    train(1, packed("again", 12, 1), "auto");
    const std::string n = std::to_string(int(packing));
    const auto one = curve("one" + n), four = curve("four" + n);
    EXPECT_EQ(curve("again" + n), one);
    for (std::size_t i = 0; i < one.size(); ++i) {
      EXPECT_NEAR(four[i][1], one[i][1], 1e-5);
      EXPECT_NEAR(four[i][4], one[i][4], 1e-5);
    }
  }
}

TEST_F(MixtureRunTest, WhatADynamicMixtureLacksIsNamed) {
  const auto error = [&](auto&& change) {
    TrainConfig c = dynamic("run", 10);
    change(c);
    try {
      c.validate();
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_THAT(error([](TrainConfig& c) { c.data.train[1].reference_loss.reset(); }),
              HasSubstr("needs a reference_loss for domain b"));
  EXPECT_THAT(error([](TrainConfig& c) { c.data.held_out.pop_back(); }),
              HasSubstr("needs domain b in data.held_out"));
  EXPECT_THAT(error([](TrainConfig& c) { c.train.eval_every = 0; }),
              HasSubstr("needs train.eval_every"));
  EXPECT_THAT(error([](TrainConfig& c) { c.data.mixture.smoothing = 1; }),
              HasSubstr("data.mixture.smoothing must lie in [0, 1)"));
  EXPECT_THAT(error([](TrainConfig& c) { c.data.train[0].max_epochs = -1; }),
              HasSubstr("max_epochs of domain a"));
}

TEST_F(MixtureRunTest, TheFeedGivesWhatTheLoaderGivesWhateverWasReadAhead) {
  const std::vector<DomainSource> sources = {{"a", {folder_ / "a.h5"}, 0.3},
                                             {"b", {folder_ / "b.h5"}, 0.7}};
  const Loader loader(sources, 12, 1, 40);
  BatchFeed feed(loader, 8, 2, 4);
  MixtureState state = loader.mixture().initial_state();
  for (const std::int64_t step : {1, 2, 3, 3, 7, 8, 9}) {  // back, and on from elsewhere
    if (step == 8) state.weights = {0.9, 0.1};
    const BatchFeed::Step got = feed.next(step, state);
    const StepPlan plan = loader.plan(step, 8, state);
    EXPECT_EQ(got.plan.sequences, plan.sequences);
    EXPECT_EQ(got.plan.labels, plan.labels);
    EXPECT_EQ(got.plan.next, plan.next);
    const Batch batch = loader.load(plan, 2, 4);
    EXPECT_EQ(got.batch.sequence_ids, batch.sequence_ids);
    EXPECT_EQ(std::memcmp(got.batch.tokens.data<std::int32_t>(), batch.tokens.data<std::int32_t>(),
                          4 * 12 * 4),
              0);
    state = plan.next;
  }
}

}  // namespace
}  // namespace moe
