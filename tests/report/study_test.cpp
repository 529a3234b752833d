// SPDX-License-Identifier: Apache-2.0
#include "report/study.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "report/study_gap.h"
#include "report/svg_file.h"
#include "support/test_folder.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using test::TestFolder;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;
using testing::ThrowsMessage;

/// A study of two arms: the dense model trained on, and four experts with two in the attention.
class StudyTest : public testing::Test {
 protected:
  void SetUp() override {
    arms("# a comment\n\nall dense -\nall,some experts --experts 4 --top-k 2\n");
    run("dense", 1, 3.0, {2.5, 2.25}, false);
    run("experts", 1, 5.0, {4.0, 3.0}, true);
    run("experts", 2, 6.0, {4.5, 3.5}, true);
  }
  void arms(const std::string& text) const { write("arms.txt", text); }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << text;
  }

  /// 30 steps of 100 tokens, measured in the middle and at the end: what the last 20 say counts.
  void run(const std::string& arm, int seed, double before, std::pair<double, double> after,
           bool split) const {
    const std::string at = str(arm, "/seed-", seed, "/");
    write(at + "before.json", str(R"({"tokens":9,"loss":99,"domains":{"a":{"loss":)", before - 0.5,
                                  R"(},"b":{"loss":)", before + 0.5, "}}}"));
    std::string lines;
    for (int step = 1; step <= 30; ++step) {
      nlohmann::json j = {{"step", step}, {"tokens", step * 100 - 2 * (seed - 1)}, {"loss", 1.0}};
      if (split) {
        const bool last = step > 10;
        // Two layers: balanced, and all to the first two of four.
        j["load_max_over_mean"] = {last ? 1.0 : 4.0, last ? 2.0 : 4.0};
        j["router_entropy"] = {last ? std::log(4.0) : 0, last ? std::log(2.0) : 0};
        j["expert_load"] = {last ? nlohmann::json{50, 50, 50, 50} : nlohmann::json{200, 0, 0, 0},
                            last ? nlohmann::json{100, 100, 0, 0} : nlohmann::json{200, 0, 0, 0}};
        j["attention"] = {{"load_max_over_mean", {1.5, 1.5}},
                          {"router_entropy", {0.5 * std::log(2.0), std::log(2.0)}},
                          {"expert_load", {{75, 25}, {75, 25}}}};
      }
      if (step == 15) j["held_out_loss"] = {{"a", after.first - 1}, {"b", after.first + 1}};
      if (step == 30) j["held_out_loss"] = {{"a", after.second - 1}, {"b", after.second + 1}};
      lines += j.dump() + "\n";
    }
    write(at + "run/metrics.jsonl", lines);
    write(at + "run/heartbeat.json", R"({"phase":"complete"})");
    if (split)
      write(at + "split/split.json", R"({"input":"in","output":"out","format":"native",
        "method":"gradient","seed":1,"experts":4,"top_k":2,"shared_experts":1,"gate":"centers",
        "gate_noise":false,"softmax_over_all":false,"scale_rule":"natural","scale":2,"align":false,
        "calibration_tokens":10,"parameters":{"total":3000000,"activated":1250000},
        "planning_seconds":1,"layers":[],
        "attention":{"kind":"heads","experts":2,"top_k":1,"gate":"random","softmax_over_all":true,
                     "scale_rule":"natural","layers":[]}})");
  }

  TestFolder folder_;
};

TEST_F(StudyTest, ReadsLossesAndBalanceOfEveryRun) {
  const Study study = read_study(folder_.path());
  ASSERT_EQ(study.arms.size(), 2u);
  EXPECT_THAT(study.groups, ElementsAre("all", "some"));
  EXPECT_THAT(study.notes, IsEmpty());
  const StudyArm& dense = study.arms[0];
  EXPECT_FALSE(dense.split);
  EXPECT_THAT(dense.runs.at(0).losses, ElementsAre(Pair(0, 3), Pair(1500, 2.5), Pair(3000, 2.25)));
  EXPECT_FALSE(dense.runs[0].experts);
  const StudyArm& experts = study.arms[1];
  EXPECT_EQ(experts.options, "--experts 4 --top-k 2");
  ASSERT_EQ(experts.runs.size(), 2u);
  const StudyRun& run = experts.runs[1];
  EXPECT_EQ(run.seed, "seed-2");
  EXPECT_EQ(run.before(), 6);
  EXPECT_EQ(run.after(), 3.5);
  EXPECT_DOUBLE_EQ(run.experts->load_max, 1.5);
  EXPECT_DOUBLE_EQ(run.experts->entropy, 0.75);  // one layer's is even, one half of it
  EXPECT_DOUBLE_EQ(run.experts->load_cv, 0.5);   // 0 and 1
  EXPECT_DOUBLE_EQ(run.attention->load_max, 1.5);
  EXPECT_DOUBLE_EQ(run.attention->entropy, 0.75);
  EXPECT_DOUBLE_EQ(run.attention->load_cv, 0.5);
}

TEST_F(StudyTest, TheTableHasAMeanAndADeviationOverTheSeeds) {
  const Study study = read_study(folder_.path());
  const std::string table = study_markdown(study, 2'000'000);
  EXPECT_THAT(table, HasSubstr("after 3.00k tokens"));
  EXPECT_THAT(table,
              HasSubstr("| dense | dense | dense | 2.00M | 3.000 | 2.250 |  |  |  |  |  |  |"));
  EXPECT_THAT(table, HasSubstr("| experts | gradient: 1 + 4, top-2 | heads: 2, top-1 | 1.25M | "
                               "5.500 ± 0.707 | 3.250 ± 0.354 | 1.50 | 0.50 | 0.75 | 1.50 | 0.50 | "
                               "0.75 |"));
  EXPECT_THAT(table, HasSubstr("1 to 2 seeds"));
  const auto j = nlohmann::json::parse(study_json(study));
  EXPECT_EQ(j["arms"][1]["loss_before"], 5.5);
  EXPECT_EQ(j["arms"][1]["loss_after"], 3.25);
  EXPECT_EQ(j["arms"][1]["runs"][0]["losses"][1][0], 1500);
  EXPECT_TRUE(j["arms"][0]["runs"][0]["experts"].is_null());
}

TEST_F(StudyTest, ThePictureOfAGroupHasTheCurvesOfItsArms) {
  const Study study = read_study(folder_.path());
  const LineChart all = study_chart(study, "all"), some = study_chart(study, "some");
  ASSERT_EQ(all.series.size(), 2u);
  EXPECT_TRUE(all.series[0].dashed);
  EXPECT_THAT(all.series[1].points, ElementsAre(Pair(0, 5.5), Pair(1499, 4.25), Pair(2999, 3.25)));
  ASSERT_EQ(some.series.size(), 1u);
  EXPECT_THAT(svg_file(all), AllOf(HasSubstr(">dense<"), HasSubstr(">experts<")));
}

TEST_F(StudyTest, TokensToCloseAGapLieBetweenTheLossesThatWereMeasured) {
  Study study = read_study(folder_.path());
  const StudyGap gap = gap_of(study, 2.0);      // above the dense model's 3
  const StudyRun& run = study.arms[1].runs[0];  // 5 at first, 4 after 1500 tokens, 3 after 3000
  EXPECT_EQ(tokens_to_close(run, gap, 0), 0);
  EXPECT_EQ(tokens_to_close(run, gap, 0.25), 750);
  EXPECT_EQ(tokens_to_close(run, gap, 0.5), 1500);
  EXPECT_EQ(tokens_to_close(run, gap, 0.75), 2250);
  EXPECT_EQ(tokens_to_close(run, gap, 1), 3000);
  EXPECT_EQ(tokens_to_close(run, gap, 1.1), std::nullopt);
  // The second seed reaches 4.5 after 1498 tokens and 3.5 after 2998.
  const std::string table = gap_markdown(study, gap);
  EXPECT_THAT(table, HasSubstr("| experts | 2.500 | 1.87k | 2.40k (1 of 2 seeds) | "
                               "2.70k (1 of 2 seeds) | 1.000 |"));
  EXPECT_THAT(table, Not(HasSubstr("| dense |")));
  EXPECT_THAT(table, HasSubstr("gap of 2.000 nats a token is closed: the held-out loss is within "
                               "the rest of 3.000"));
  const auto j = nlohmann::json::parse(study_json(study, &gap));
  EXPECT_EQ(j["arms"][1]["runs"][0]["tokens_to_close"]["50"], 1500);
  EXPECT_TRUE(j["arms"][1]["runs"][1]["tokens_to_close"]["90"].is_null());
  EXPECT_FALSE(j["arms"][0]["runs"][0].contains("tokens_to_close"));
  study.arms[1].runs.erase(study.arms[1].runs.begin());
  EXPECT_THAT(gap_markdown(study, gap), HasSubstr("| not reached | not reached | 1.250 |"));
}

TEST_F(StudyTest, AGapNeedsADenseModelAndNats) {
  Study study = read_study(folder_.path());
  EXPECT_THAT([&] { gap_of(study, -1); }, ThrowsMessage<InputError>(HasSubstr("positive")));
  study.arms.erase(study.arms.begin());
  EXPECT_THAT([&] { gap_of(study, 1); }, ThrowsMessage<InputError>(HasSubstr("dense model")));
}

TEST_F(StudyTest, RunsThatAreNotCompleteAreLeftOutWithANote) {
  write("experts/seed-2/run/heartbeat.json", R"({"phase":"interrupted"})");
  fs::create_directories(folder_ / "experts/seed-3");
  arms("all dense -\nall experts --experts 4\nall later --experts 8\n");
  const Study study = read_study(folder_.path());
  ASSERT_EQ(study.arms.size(), 2u);
  EXPECT_EQ(study.arms[1].runs.size(), 1u);
  EXPECT_THAT(study.notes, ElementsAre(HasSubstr("seed-2: is not complete"),
                                       HasSubstr("seed-3: is not complete"),
                                       HasSubstr("later: has no finished run")));
  EXPECT_THAT(study_markdown(study, 0),
              AllOf(HasSubstr("| 5.000 | 3.000 |"), Not(HasSubstr("±  "))));
}

TEST_F(StudyTest, WhatIsNoStudyIsRefused) {
  const auto refused = [&](const std::string& why) {
    EXPECT_THAT([&] { read_study(folder_.path()); }, ThrowsMessage<InputError>(HasSubstr(why)));
  };
  arms("all dense -\nall dense -\n");
  refused("arms.txt:2: a second arm dense");
  arms("all\n");
  refused("arms.txt:1: names no arm");
  arms("all ../dense -\n");
  refused("arms.txt:1: '../dense' may hold letters");
  arms("# nothing\n");
  refused("names no arms");
  arms("all none -\n");
  refused("holds no finished run");
  arms("all dense -\n");
  write("dense/seed-1/before.json", R"({"loss":3})");
  refused("before.json: is no output of moe-eval loss");
  write("dense/seed-1/before.json", "{");
  refused("before.json");
  fs::remove(folder_ / "arms.txt");
  refused("arms.txt: no such file");
}

}  // namespace
}  // namespace moe
