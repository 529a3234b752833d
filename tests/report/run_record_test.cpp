// SPDX-License-Identifier: Apache-2.0
#include "report/run_record.h"

#include <gmock/gmock.h>

#include <ctime>

#include "core/error.h"
#include "report/run_summary.h"
#include "run_fixture.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::ThrowsMessage;

struct RunFolder : testing::Test {
  test::TestFolder folder_;
};

TEST_F(RunFolder, GivesEveryNumberUnderItsName) {
  const RunRecord run = read_run(test::write_run(folder_, "small", test::metrics_lines(20)));
  EXPECT_EQ(run.name, "small");
  EXPECT_EQ(run.state, "complete");
  EXPECT_THAT(run.notes, IsEmpty());
  ASSERT_THAT(run.steps, SizeIs(20));
  EXPECT_EQ(run.tokens[4], 5 * 1024);
  ASSERT_NE(run.find("loss"), nullptr);
  EXPECT_EQ(run.find("loss")->values[4], test::metrics_line(5).at("loss").get<double>());
  EXPECT_EQ(run.find("phase_seconds/forward")->values[7], 0.3);
  EXPECT_THAT(run.find("expert_load/1/3")->rows, ElementsAre(9, 19));
  EXPECT_EQ(run.find("expert_load/1/3")->values[1],
            test::metrics_line(20).at("expert_load").at(1).at(3).get<double>());
  EXPECT_THAT(run.names_below("held_out_loss/"), ElementsAre("domain0", "domain1"));
  EXPECT_THAT(run.mean_below("held_out_loss/").rows, ElementsAre(9, 19));
  EXPECT_THAT(run.mean_below("held_out_loss/").values, ElementsAre(3, 3));
  EXPECT_EQ(run.count_below("expert_load/0/"), 4u);
  EXPECT_THAT(run.config, ElementsAre(std::pair<std::string, std::string>{"run.seed", "1"}));
}

TEST_F(RunFolder, NumbersOfALaterVersionAreThereToo) {
  auto lines = test::metrics_lines(1);
  lines[0]["domain_weights"] = {{"a/b", 0.25}, {"c", nullptr}};
  lines[0]["new"] = {{"thing", {1, {{"x", 2}}}}};
  const RunRecord run = read_run(test::write_run(folder_, "later", lines));
  EXPECT_THAT(run.names_below("domain_weights/"), ElementsAre("a/b"));  // null is no number
  EXPECT_EQ(run.find("new/thing/1/x")->values, std::vector<double>{2});
}

TEST_F(RunFolder, BadLinesAreNamedAndLeftOut) {
  const fs::path run = test::write_run(folder_, "bad", {});
  std::ofstream(run / "metrics.jsonl") << R"({"step":1,"loss":3})"
                                       << "\n"
                                       << "{\"step\":2,\"loss\":\n"
                                       << "[1,2]\n"
                                       << R"({"loss":3})"
                                       << "\n"
                                       << R"({"step":2,"loss":2.5})"
                                       << "\n"
                                       << R"({"step":2,"loss":9})"
                                       << "\n"
                                       << R"({"step":3,"loss":null})"
                                       << "\n"
                                       << R"({"step":4,"loss":2)";
  const RunRecord record = read_run(run);
  EXPECT_THAT(record.steps, ElementsAre(1, 2, 3));
  EXPECT_THAT(record.find("loss")->rows, ElementsAre(0, 1));
  EXPECT_THAT(record.find("loss")->values, ElementsAre(3, 2.5));
  EXPECT_THAT(record.notes,
              ElementsAre(HasSubstr("metrics.jsonl:2: is no JSON object"),
                          HasSubstr("metrics.jsonl:3: is no JSON object"),
                          HasSubstr("metrics.jsonl:4: has no step"),
                          HasSubstr("metrics.jsonl:6: step 2 does not come after step 2"),
                          HasSubstr("metrics.jsonl:8: is torn")));
}

TEST_F(RunFolder, ThousandsOfBadLinesAreCounted) {
  std::string tail;
  for (int i = 0; i < 1000; ++i) tail += "garbage\n";
  const RunRecord run =
      read_run(test::write_run(folder_, "bad", test::metrics_lines(3), "a: 1\n", tail));
  EXPECT_THAT(run.notes, SizeIs(6));
  EXPECT_THAT(run.notes.back(), HasSubstr("995 more lines"));
}

TEST_F(RunFolder, MayBeEmptyOldOrHalfThere) {
  const fs::path run = test::write_run(folder_, "empty", {}, "run: [1\n");
  fs::remove(run / "heartbeat.json");
  const RunRecord record = read_run(run);
  EXPECT_THAT(record.steps, IsEmpty());
  EXPECT_EQ(record.state, "");
  EXPECT_THAT(record.notes, ElementsAre(HasSubstr("no step yet"), HasSubstr("config.yaml:")));
  const RunSummary s = summary_of(record);
  EXPECT_EQ(s.steps, 0);
  EXPECT_FALSE(s.loss || s.held_out_mean || s.seconds);
  fs::remove(run / "config.yaml");
  EXPECT_THAT(read_run(run).notes, ElementsAre(HasSubstr("no step"), HasSubstr("cannot be read")));
}

TEST_F(RunFolder, TellsARunThatGoesOnFromOneThatFellSilent) {
  const fs::path run = test::write_run(folder_, "run", test::metrics_lines(3));
  const auto state = [&](double age, const std::string& phase) {
    std::ofstream(run / "heartbeat.json")
        << nlohmann::json{{"time", double(std::time(nullptr)) - age}, {"phase", phase}}.dump();
    return read_run(run).state;
  };
  EXPECT_EQ(state(5, "train"), "goes on");
  EXPECT_EQ(state(-5, "save"), "goes on");
  EXPECT_EQ(state(7260, "train"), "silent for 2h01m");
  EXPECT_EQ(state(7260, "interrupted"), "interrupted");
  std::ofstream(run / "heartbeat.json") << "{\"phase\":";
  EXPECT_EQ(read_run(run).state, "");
}

TEST_F(RunFolder, HugeNumbersAndOddStepsAreLeftOut) {
  const RunRecord run = read_run(test::write_run(
      folder_, "run", {}, "a: 1\n",
      "{\"step\":1,\"loss\":1e308,\"grad_norm\":-1e308}\n"
      "{\"step\":-2,\"loss\":1}\n{\"step\":2.5,\"loss\":1}\n{\"step\":3,\"loss\":1e999}\n"));
  EXPECT_THAT(run.steps, ElementsAre(1));
  EXPECT_EQ(run.find("loss"), nullptr);
  EXPECT_THAT(run.notes, SizeIs(3));
}

TEST_F(RunFolder, WithoutMetricsIsRefused) {
  const auto message = [](const fs::path& path) {
    return ThrowsMessage<InputError>(HasSubstr(path.string()));
  };
  fs::create_directories(folder_ / "none");
  EXPECT_THAT(
      [&] { read_run(folder_ / "none"); },
      AllOf(message(folder_ / "none"), ThrowsMessage<InputError>(HasSubstr("no metrics.jsonl"))));
  EXPECT_THAT([&] { read_run(folder_ / "missing"); }, message(folder_ / "missing"));
  std::ofstream(folder_ / "file") << "x";
  EXPECT_THAT([&] { read_run(folder_ / "file"); }, message(folder_ / "file"));
}

TEST_F(RunFolder, SkippedStepsAndRollbacksAreEvents) {
  auto lines = test::metrics_lines(6);
  lines[2]["skipped"] = "the loss is not finite";
  for (std::size_t i = 4; i < 6; ++i) lines[i]["rollbacks"] = 1;
  lines[5]["skipped_steps"] = 4;
  const RunRecord run = read_run(test::write_run(folder_, "run", lines));
  ASSERT_THAT(run.skipped, SizeIs(1));
  EXPECT_EQ(run.skipped[0].row, 2u);
  EXPECT_EQ(run.skipped[0].text, "the loss is not finite");
  ASSERT_THAT(run.rollbacks, SizeIs(1));
  EXPECT_EQ(run.rollbacks[0].row, 4u);
  EXPECT_EQ(summary_of(run).skipped, 4);
  EXPECT_EQ(summary_of(run).rollbacks, 1);
}

TEST_F(RunFolder, IsSummedUpByItsLastNumbers) {
  auto lines = test::metrics_lines(50);
  for (std::size_t i = 0; i < 50; ++i) lines[i]["loss"] = i < 30 ? 9.0 : i % 2 == 0 ? 2.0 : 3.0;
  lines[49]["held_out_loss"] = {{"domain1", 5}};
  const RunSummary s = summary_of(read_run(test::write_run(folder_, "run", lines)));
  EXPECT_EQ(s.steps, 50);
  EXPECT_EQ(s.tokens, 50 * 1024);
  EXPECT_EQ(s.loss, 2.5);
  EXPECT_EQ(s.loss_lines, 20);
  EXPECT_THAT(s.held_out, ElementsAre(std::pair<const std::string, double>{"domain1", 5}));
  EXPECT_EQ(s.held_out_mean, 5);
  EXPECT_EQ(s.held_out_best, 3);
  EXPECT_EQ(s.held_out_step, 50);
  EXPECT_EQ(s.seconds, 50);
  EXPECT_EQ(s.flops_per_second, 1e9);
  EXPECT_THAT(to_text(s), AllOf(HasSubstr("2.5000"), HasSubstr("held-out domain1"),
                                HasSubstr("1.00G"), HasSubstr("complete")));
  const auto j = nlohmann::json::parse(to_json(std::vector{s}, ""));
  EXPECT_EQ(j.at("runs").at(0).at("loss"), 2.5);
  EXPECT_TRUE(j.at("output").is_null());
}

}  // namespace
}  // namespace moe
