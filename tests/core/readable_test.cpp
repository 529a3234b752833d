// SPDX-License-Identifier: Apache-2.0
#include "core/readable.h"

#include <gtest/gtest.h>

namespace moe {
namespace {

TEST(Readable, CountsHaveThreeDigitsAndAUnit) {
  EXPECT_EQ(readable_count(0), "0");
  EXPECT_EQ(readable_count(950), "950");
  EXPECT_EQ(readable_count(999.7), "1.00k");
  EXPECT_EQ(readable_count(12345), "12.3k");
  EXPECT_EQ(readable_count(456e3), "456k");
  EXPECT_EQ(readable_count(6.7425e9), "6.74G");
  EXPECT_EQ(readable_count(2e15), "2P");
}

TEST(Readable, DurationsHaveTheirTwoLargestUnits) {
  EXPECT_EQ(readable_seconds(41.6), "42s");
  EXPECT_EQ(readable_seconds(185), "3m05s");
  EXPECT_EQ(readable_seconds(7630), "2h07m");
}

}  // namespace
}  // namespace moe
