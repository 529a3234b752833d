// SPDX-License-Identifier: Apache-2.0
#include "split/partition.h"

#include <gmock/gmock.h>

#include <numeric>

#include "core/error.h"

namespace moe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Partition, UnevenSizesDifferByOneAndComeLargestFirst) {
  EXPECT_THAT(even_sizes(172, 8), ElementsAre(22, 22, 22, 22, 21, 21, 21, 21));
  EXPECT_THAT(even_sizes(8, 4), ElementsAre(2, 2, 2, 2));
  EXPECT_THAT(even_sizes(3, 3), ElementsAre(1, 1, 1));
}

TEST(Partition, MoreExpertsThanNeuronsAreRefused) {
  EXPECT_THAT([] { even_sizes(7, 8); },
              ThrowsMessage<InputError>(HasSubstr("8 experts of 7 FFN neurons")));
  EXPECT_THROW(even_sizes(7, 0), InputError);
}

TEST(Partition, OrderListsExpertsOneAfterTheOther) {
  const Partition p{{{1, 4}, {0, 2, 3}}};
  EXPECT_THAT(concatenated(p.experts), ElementsAre(1, 4, 0, 2, 3));
  EXPECT_THAT(sizes_of(p.experts), ElementsAre(2, 3));
  EXPECT_EQ(partition_of_labels({1, 0, 1, 1, 0}, 2), p);
}

TEST(Partition, CheckNamesWhatIsWrong) {
  const auto check = [](Partition p, Coverage coverage = Coverage::exact) {
    return [p, coverage] { check_partition(p, 4, coverage); };
  };
  EXPECT_NO_THROW(check({{{0, 3}, {1, 2}}})());
  EXPECT_THAT(check({{{0, 1, 2, 3}, {}}}), ThrowsMessage<Error>(HasSubstr("expert 1 has no")));
  EXPECT_THAT(check({{{0, 1}, {1, 2, 3}}}), ThrowsMessage<Error>(HasSubstr("neuron 1 belongs to")));
  EXPECT_THAT(check({{{0, 1}, {3}}}), ThrowsMessage<Error>(HasSubstr("neuron 2 belongs to no")));
  EXPECT_THAT(check({{{0, 1}, {3, 2}}}), ThrowsMessage<Error>(HasSubstr("do not ascend")));
  EXPECT_THAT(check({{{0, 1}, {2, 4}}}), ThrowsMessage<Error>(HasSubstr("neuron 4 of 4")));
}

TEST(Partition, SharedAndDroppedNeuronsAreAllowedWhereTheMethodSaysSo) {
  EXPECT_NO_THROW(check_partition({{{0, 1}, {1, 3}}}, 4, Coverage::any));
  EXPECT_THROW(check_partition({{{0, 1}, {1, 1}}}, 4, Coverage::any), Error);
}

}  // namespace
}  // namespace moe
