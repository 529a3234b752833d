// SPDX-License-Identifier: Apache-2.0
#include "train/training_view.h"

#include <gmock/gmock.h>

#include <cstdlib>

namespace moe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ViewFacts facts() {
  ViewFacts f;
  f.metrics.step = 120;
  f.metrics.tokens = 1'500'000;
  f.metrics.loss = 2.5;
  f.metrics.learning_rate = 2e-4;
  f.metrics.grad_norm = 0.875;
  f.metrics.tokens_per_second = 12345;
  f.metrics.flops_per_second = 1.25e12;
  f.metrics.load_max_over_mean = {1.25, 1.5};
  f.metrics.expert_load = {{10, 30}, {20, 20}};
  f.metrics.skipped_steps = 1;
  f.total_steps = 1000;
  f.losses = {3, 2, 2.5};
  f.held_out = {{"code", 2}, {"web", 3}};
  f.held_out_step = 100;
  f.seconds_gone = 65;
  f.seconds_left = 7630;
  return f;
}

TEST(TrainingView, SaysHowFarAndHowWell) {
  setenv("LC_ALL", "C.UTF-8", 1);
  EXPECT_THAT(
      view_lines(facts(), 90),
      ElementsAre("step 120/1000 [###.........................] 12% | 2h07m left | 1.50M tokens "
                  "| 1m05s gone",
                  "loss 2.5000, mean 2.5000 █▁▅ | lr 2.00e-04 | grad 0.875",
                  "12.3k tok/s | 1.25TFLOP/s | load 1.50 ▄▅ | skipped 1",
                  "held-out 2.5000, perplexity 12.18, after step 100: code 2.0000, web 3.0000"));
  unsetenv("LC_ALL");
}

TEST(TrainingView, ShowsTheTimeLeftOnANarrowTerminal) {
  const std::string line = view_lines(facts(), 45)[0];
  EXPECT_THAT(line.substr(0, 44), HasSubstr("[........] 12% | 2h07m left"));
}

TEST(TrainingView, OfADenseRunThatHasJustBegunIsShort) {
  ViewFacts f;
  f.metrics.step = 1;
  f.total_steps = 1;
  const auto lines = view_lines(f, 80);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_THAT(lines[0], testing::Not(HasSubstr("left")));
  EXPECT_THAT(lines[2], testing::Not(HasSubstr("load")));
}

TEST(TrainingView, OfAPipeIsALineForStepsThatAreDueAndEvaluations) {
  StepMetrics m = facts().metrics;
  testing::internal::CaptureStderr();
  TrainingView view(1000, false);
  view.show(m, 7630, true);
  view.show(m, 7630, false);
  m.held_out_loss = {{"web", 3}};
  view.show(m, 7630, false);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), progress_line(facts().metrics, 1000, 7630) +
                                                        "\n" + progress_line(m, 1000, 7630) + "\n");
}

TEST(TrainingView, IsRedrawnAFewTimesASecondAndAtTheEnd) {
  StepMetrics m = facts().metrics;
  testing::internal::CaptureStderr();
  {
    TrainingView view(1000, true);
    for (m.step = 1; m.step <= 1000; ++m.step) view.show(m, 0, true);
  }
  const std::string bytes = testing::internal::GetCapturedStderr();
  std::size_t drawn = 0;
  for (auto at = bytes.find("step "); at != std::string::npos; at = bytes.find("step ", at + 1))
    ++drawn;
  EXPECT_GE(drawn, 2u);
  EXPECT_LT(drawn, 100u);
  EXPECT_THAT(bytes, HasSubstr("step 1000/1000"));
  EXPECT_THAT(bytes, HasSubstr("100%"));
}

}  // namespace
}  // namespace moe
