// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "core/error.h"
#include "split/split_context.h"

namespace moe {
namespace {

using test::split_context;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

Partition split(const char* method, const SplitContext& context,
                const ConstructionOptions& options = {}) {
  const FfnWeights none = [](std::string_view) -> Tensor { throw Error("weights were read"); };
  return make_construction(method, options)->split(context, none).partition;
}

TEST(RandomConstruction, TenNeuronsAreSplitTheSameOnEveryMachine) {
  EXPECT_THAT(split("random", split_context(10, 3)).experts,
              ElementsAre(ElementsAre(2, 6, 8, 9), ElementsAre(0, 1, 4), ElementsAre(3, 5, 7)));
}

TEST(RandomConstruction, V1Defect3RandomSplitIsSeeded) {
  const Partition first = split("random", split_context(172, 8, 42));
  EXPECT_EQ(split("random", split_context(172, 8, 42)), first);
  EXPECT_NE(split("random", split_context(172, 8, 43)), first);
  EXPECT_NE(split("random", split_context(172, 8, 42, 1)), first) << "the layer does not count";
}

TEST(SequentialConstruction, ExpertsTakeTheNextNeuronsInTurn) {
  EXPECT_THAT(split("sequential", split_context(7, 3)).experts,
              ElementsAre(ElementsAre(0, 1, 2), ElementsAre(3, 4), ElementsAre(5, 6)));
}

ConstructionOptions granularity(std::int64_t g) {
  ConstructionOptions options;
  options.copy_granularity = g;
  return options;
}

SplitContext copy_context(std::int64_t neurons, std::int64_t experts, std::int64_t g) {
  SplitContext context = {0, 42, neurons, {}};
  context.sizes = make_construction("copy", granularity(g))->sizes(neurons, experts);
  return context;
}

TEST(CopyConstruction, EveryExpertIsTheWholeFfn) {
  EXPECT_THAT(
      split("copy", copy_context(4, 3, 1)).experts,
      ElementsAre(ElementsAre(0, 1, 2, 3), ElementsAre(0, 1, 2, 3), ElementsAre(0, 1, 2, 3)));
  EXPECT_EQ(make_construction("copy", {})->natural_scale(8, 2), 1);
}

// 5 neurons in 2 slices are {0, 1, 2} and {3, 4}; experts 0 and 2 hold the first, 1 and 3 the
// second. With k = 4 and weights 1/4 the sum is (2 first + 2 second) / 4, half the dense output.
TEST(CopyConstruction, GranularExpertsAreTheSlicesInTurn) {
  const SplitContext context = copy_context(5, 4, 2);
  EXPECT_THAT(context.sizes, ElementsAre(3, 2, 3, 2));
  EXPECT_THAT(split("copy", context, granularity(2)).experts,
              ElementsAre(ElementsAre(0, 1, 2), ElementsAre(3, 4), ElementsAre(0, 1, 2),
                          ElementsAre(3, 4)));
  EXPECT_EQ(make_construction("copy", granularity(2))->natural_scale(4, 4), 2);
}

TEST(CopyConstruction, WhatItCannotMakeIsRefused) {
  EXPECT_THROW(make_construction("copy", granularity(0)), InputError);
  EXPECT_THAT([] { make_construction("copy", granularity(3))->sizes(12, 8); },
              ThrowsMessage<InputError>(HasSubstr("a multiple of 3 experts, not 8")));
  EXPECT_THROW(make_construction("copy", granularity(6))->sizes(5, 6), InputError);
  EXPECT_THAT([] { split("copy", split_context(12, 3)); },
              ThrowsMessage<InputError>(HasSubstr("makes experts of 12, 12, 12 neurons")));
}

}  // namespace
}  // namespace moe
