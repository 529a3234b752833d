// SPDX-License-Identifier: Apache-2.0
#include "train/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

class Metrics : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / str("metrics_test.", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    file_ = folder_ / "metrics.jsonl";
  }
  void TearDown() override { fs::remove_all(folder_); }

  void append(std::int64_t last_step, const std::vector<std::int64_t>& steps) const {
    MetricsWriter writer(file_, last_step);
    for (const std::int64_t step : steps) {
      StepMetrics m;
      m.step = step;
      m.loss = 1.0 / double(step);
      writer.write(m);
    }
  }

  fs::path folder_, file_;
};

std::string text_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::int64_t> steps_of(const fs::path& file) {
  std::vector<std::int64_t> steps;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    steps.push_back(nlohmann::json::parse(line).at("step").get<std::int64_t>());
  return steps;
}

StepMetrics full() {
  StepMetrics m;
  m.step = 120;
  m.tokens = 1'000'000'007;
  m.loss = 0.1 + 0.2;
  m.domain_loss = {{"code", 1.0 / 3}, {"web", NAN}};
  m.router_losses = {{"cv_squared", 5e-324}};
  m.grad_norm = 0.875;
  m.learning_rate = 2e-4;
  m.tokens_per_second = 12345;
  m.step_seconds = 1.5;
  m.phase_seconds = {{"forward", 0.5}, {"backward", 1.0}};
  m.flops_per_second = 1.25e12;
  m.load_max_over_mean = {1.25, 1.5};
  m.router_entropy = {std::numeric_limits<double>::max()};
  m.dead_experts = {0, 2};
  m.expert_load = {{5, 3}, {0, 8}};
  m.dropped_tokens = 3;
  m.exposed_comm_seconds = 0.01;
  m.exposed_comm_by_phase = {{"dispatch", 0.0075}, {"combine", 0.0025}};
  m.memory_bytes = {{"weights", 3}, {"total", std::int64_t{1} << 40}};
  return m;
}

TEST_F(Metrics, NumbersKeepEveryBitAndNaNIsNull) {
  const std::string text = to_json(full());
  EXPECT_EQ(text.find('\n'), std::string::npos);
  const auto j = nlohmann::json::parse(text);
  EXPECT_EQ(j.at("step"), 120);
  EXPECT_EQ(j.at("tokens"), 1'000'000'007);
  EXPECT_EQ(j.at("loss").get<double>(), 0.1 + 0.2);
  EXPECT_EQ(j.at("domain_loss").at("code").get<double>(), 1.0 / 3);
  EXPECT_TRUE(j.at("domain_loss").at("web").is_null());
  EXPECT_EQ(j.at("router_losses").at("cv_squared").get<double>(), 5e-324);
  EXPECT_EQ(j.at("router_entropy").at(0).get<double>(), std::numeric_limits<double>::max());
  EXPECT_EQ(j.at("load_max_over_mean"), (std::vector<double>{1.25, 1.5}));
  EXPECT_EQ(j.at("dead_experts"), (std::vector<int>{0, 2}));
  EXPECT_EQ(j.at("expert_load"), (std::vector<std::vector<int>>{{5, 3}, {0, 8}}));
  EXPECT_EQ(j.at("dropped_tokens"), 3);
  EXPECT_EQ(j.at("phase_seconds").at("backward"), 1.0);
  EXPECT_EQ(j.at("exposed_comm_by_phase").at("dispatch"), 0.0075);
  EXPECT_EQ(j.at("memory_bytes").at("total"), std::int64_t{1} << 40);
  EXPECT_FALSE(j.contains("held_out_loss"));
  EXPECT_FALSE(j.contains("teacher_kl"));
  EXPECT_FALSE(nlohmann::json::parse(to_json(StepMetrics{})).contains("expert_load"));
  EXPECT_TRUE(nlohmann::json::parse(to_json(StepMetrics{})).at("loss").is_null());
}

TEST_F(Metrics, NamesNeedNotBeUtf8) {
  StepMetrics m;
  m.domain_loss = {{"caf\xe9", 1}};
  EXPECT_TRUE(nlohmann::json::accept(to_json(m)));
}

TEST_F(Metrics, EachStepIsALineAtOnce) {
  MetricsWriter writer(file_, 0);
  writer.write(full());
  EXPECT_EQ(text_of(file_), to_json(full()) + "\n");
  writer.write(full());
  EXPECT_EQ(text_of(file_), to_json(full()) + "\n" + to_json(full()) + "\n");
}

TEST_F(Metrics, ResumingCutsLaterStepsAndKeepsThemAside) {
  append(0, {1, 2, 3, 4, 5});
  const std::string straight = text_of(file_);
  append(3, {4, 5});
  EXPECT_EQ(text_of(file_), straight);
  EXPECT_THAT(steps_of(folder_ / "metrics.jsonl.before-3"), testing::ElementsAre(4, 5));
  append(3, {});
  EXPECT_THAT(steps_of(file_), testing::ElementsAre(1, 2, 3));
  EXPECT_THAT(steps_of(folder_ / "metrics.jsonl.before-3"), testing::ElementsAre(4, 5, 4, 5));
  append(3, {4});
  EXPECT_THAT(steps_of(file_), testing::ElementsAre(1, 2, 3, 4));
  append(0, {1});
  EXPECT_THAT(steps_of(file_), testing::ElementsAre(1));
  EXPECT_THAT(steps_of(folder_ / "metrics.jsonl.before-0"), testing::ElementsAre(1, 2, 3, 4));
}

TEST_F(Metrics, ALineTornByACrashIsMovedAside) {
  append(0, {1, 2});
  const std::string good = text_of(file_);
  std::ofstream(file_, std::ios::app) << "{\"step\": 3, \"lo";
  append(5, {3});
  EXPECT_THAT(steps_of(file_), testing::ElementsAre(1, 2, 3));
  EXPECT_EQ(text_of(folder_ / "metrics.jsonl.before-5"), "{\"step\": 3, \"lo\n");
  // A last line that is whole but for its end may have lost digits too.
  std::ofstream(file_, std::ios::trunc) << good << "{\"step\": 3}";
  append(5, {});
  EXPECT_EQ(text_of(file_), good);
}

TEST_F(Metrics, AFullDiskIsAnErrorThatLeavesWholeLines) {
  append(0, {1});
  const auto size = fs::file_size(file_);
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{size + 20, size + 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    int code = 1;
    try {
      append(1, {2});
    } catch (const Error& e) {
      code = std::string(e.what()).ends_with("cannot be written: File too large") ? 0 : 2;
    }
    ::_exit(code);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(fs::file_size(file_), size);
  EXPECT_THROW(MetricsWriter(folder_ / "none" / "metrics.jsonl", 0), Error);
}

TEST_F(Metrics, ProgressIsOneReadableLine) {
  EXPECT_EQ(progress_line(full(), 1000, 7630),
            "step  120/1000 | loss 0.3000 | lr 2.00e-04 | grad 0.875 | 12.3k tok/s | 1.25TFLOP/s | "
            "load 1.50 | 2 dead | 3 dropped | 2h07m left");
  StepMetrics m;
  m.step = 7;
  m.loss = 2;
  m.teacher_kl = 0.5;
  m.held_out_loss = {{"web", 3.25}};
  EXPECT_EQ(progress_line(m, 9, NAN), "step 7/9 | loss 2.0000 | kl 0.5000 | held-out web 3.2500");
  EXPECT_EQ(progress_line(StepMetrics{}, 9, 61), "step 0/9 | 1m01s left");
}

}  // namespace
}  // namespace moe
