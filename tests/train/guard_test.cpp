// SPDX-License-Identifier: Apache-2.0
#include "train/guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"

namespace moe {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

TrainConfig::Guard limits(double spike_factor = 0) {
  TrainConfig::Guard g;
  g.max_skipped = 3;
  g.max_rollbacks = 2;
  g.spike_factor = spike_factor;
  g.spike_window = 4;
  return g;
}

TEST(Guard, SkipsWhatIsNotFinite) {
  const Guard guard(limits());
  EXPECT_EQ(guard.judge(1, 1), Verdict::accept);
  EXPECT_EQ(guard.judge(kNan, 1), Verdict::loss_not_finite);
  EXPECT_EQ(guard.judge(kInfinity, kNan), Verdict::loss_not_finite);
  EXPECT_EQ(guard.judge(1, kNan), Verdict::norm_not_finite);
  EXPECT_EQ(guard.judge(1, kInfinity), Verdict::norm_not_finite);
  EXPECT_EQ(guard.judge(1e300, 1e300), Verdict::accept);
}

TEST(Guard, ASpikeIsALossFarAboveTheMedianOfTheAcceptedOnes) {
  Guard guard(limits(1.5));
  guard.accept(1, 90);  // leaves the window below
  for (int step = 2; step < 5; ++step) {
    guard.accept(step, step);
    EXPECT_EQ(guard.judge(1e9, 1), step < 4 ? Verdict::accept : Verdict::loss_spike);
  }
  guard.accept(5, 100);  // of 2, 3, 4, 100 the median is 3.5
  EXPECT_EQ(guard.judge(3.5 * 1.5, 1), Verdict::accept);
  EXPECT_EQ(guard.judge(std::nextafter(3.5 * 1.5, 10), 1), Verdict::loss_spike);
  EXPECT_EQ(guard.state().losses, (std::vector<double>{2, 3, 4, 100}));
  guard.skip();
  EXPECT_EQ(guard.state().losses.size(), 4u) << "a skipped loss does not count";
}

TEST(Guard, WantsToRollBackAfterSkipsInARowOnly) {
  Guard guard(limits());
  for (int step = 1; step <= 10; ++step) {
    guard.skip();
    guard.skip();
    EXPECT_FALSE(guard.wants_rollback());
    guard.accept(step, 1);
  }
  EXPECT_EQ(guard.state().skipped_steps, 20);
  for (int i = 0; i < 3; ++i) guard.skip();
  EXPECT_TRUE(guard.wants_rollback());
  EXPECT_EQ(guard.rollback_limit(), 10);
}

TEST(Guard, ASecondRollbackWithoutProgressGoesFurtherBack) {
  Guard guard(limits());
  guard.accept(8, 1);
  const GuardState saved = guard.state();
  guard.accept(9, 1);
  guard.skip();
  ASSERT_TRUE(guard.may_roll_back());
  guard.roll_back(8, saved);
  EXPECT_EQ(guard.state().accepted_step, 8);
  EXPECT_EQ(guard.state().skipped_steps, 1) << "the run's count does not go back";
  EXPECT_EQ(guard.rollback_limit(), 7);
  Guard onward = guard;
  onward.accept(9, 1);
  EXPECT_EQ(onward.rollback_limit(), 9);
  guard.roll_back(5, saved);
  EXPECT_FALSE(guard.may_roll_back());
}

TEST(Guard, StateSurvivesACheckpointToTheLastBit) {
  const GuardState state{{1.0 / 3, 0.1, 1e-300, 12345.678901234567}, 7, 6, 5, 4, 3};
  EXPECT_EQ(guard_state_from_json(to_json(state)), state);
  EXPECT_THROW(guard_state_from_json("{}"), InputError);
}

}  // namespace
}  // namespace moe
