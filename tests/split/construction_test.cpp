// SPDX-License-Identifier: Apache-2.0
#include "split/construction.h"

#include <gmock/gmock.h>

#include <map>

#include "core/error.h"
#include "core/rng.h"

namespace moe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

SplitContext context(std::int64_t neurons, std::int64_t experts, std::uint64_t seed = 42,
                     std::int64_t layer = 0) {
  return {layer, seed, neurons, even_sizes(neurons, experts)};
}

/// Weights that differ between the projections.
FfnWeights random_weights(std::int64_t neurons, std::int64_t hidden) {
  return [=](std::string_view part) {
    const Philox random(std::uint64_t(part[0]), RandomPurpose::test);
    Tensor w = Tensor::empty({neurons, hidden}, DType::f32);
    for (std::int64_t i = 0; i < w.size(); ++i)
      w.data<float>()[i] = float(random.normal(std::uint64_t(i)));
    return w;
  };
}

class EveryMethod : public testing::TestWithParam<std::string> {};

TEST_P(EveryMethod, GivesEachNeuronToOneExpertInTheSizesAskedFor) {
  const auto method = make_construction(GetParam(), {});
  for (const std::int64_t experts : {1, 4, 8, 16, 172}) {
    const SplitContext c = context(172, experts);
    const LayerSplit split = method->split(c, random_weights(172, 12));
    EXPECT_NO_THROW(check_partition(split.partition, 172, Coverage::exact));
    EXPECT_EQ(sizes_of(split.partition.experts), c.sizes) << experts << " experts";
  }
}

TEST_P(EveryMethod, DependsOnSeedAndLayerAndNothingElse) {
  const auto method = make_construction(GetParam(), {});
  const FfnWeights weights = random_weights(172, 12);
  const Partition first = method->split(context(172, 8), weights).partition;
  EXPECT_EQ(method->split(context(172, 8), weights).partition, first);
  EXPECT_NE(method->split(context(172, 8, 43), weights).partition, first);
  EXPECT_NE(method->split(context(172, 8, 42, 1), weights).partition, first);
}

INSTANTIATE_TEST_SUITE_P(Construction, EveryMethod, testing::ValuesIn(construction_names()),
                         [](const auto& test) { return test.param; });

TEST(Construction, RandomSplitOfTenNeuronsIsTheSameOnEveryMachine) {
  const Partition p =
      make_construction("random", {})->split(context(10, 3), FfnWeights()).partition;
  EXPECT_THAT(p.experts,
              ElementsAre(ElementsAre(2, 6, 8, 9), ElementsAre(0, 1, 4), ElementsAre(3, 5, 7)));
}

TEST(Construction, RandomSplitReadsNoWeights) {
  const FfnWeights none = [](std::string_view) -> Tensor { throw Error("weights were read"); };
  EXPECT_NO_THROW(make_construction("random", {})->split(context(10, 3), none));
}

TEST(Construction, ClusteringReadsTheProjectionItWasToldToUse) {
  for (const std::string part : {"up", "gate"}) {
    ConstructionOptions options;
    options.cluster_on = part;
    std::string asked;
    const FfnWeights weights = [&](std::string_view name) {
      asked += name;
      return random_weights(40, 6)(name);
    };
    make_construction("clustering", options)->split(context(40, 4), weights);
    EXPECT_EQ(asked, part);
  }
}

TEST(Construction, ClusteringBeatsTheRandomSplit) {
  const LayerSplit split =
      make_construction("clustering", {})->split(context(172, 8), random_weights(172, 12));
  const std::map<std::string, double> m(split.measures.begin(), split.measures.end());
  EXPECT_LT(m.at("objective"), m.at("objective_random"));
  EXPECT_LE(m.at("objective_unbalanced"), m.at("objective"));
}

TEST(Construction, BadOptionsAreRefused) {
  EXPECT_THAT([] { make_construction("kmeans", {}); },
              ThrowsMessage<InputError>(HasSubstr("use random or clustering")));
  ConstructionOptions down, none;
  down.cluster_on = "down";
  none.cluster_starts = 0;
  EXPECT_THROW(make_construction("clustering", down), InputError);
  EXPECT_THROW(make_construction("clustering", none), InputError);
}

}  // namespace
}  // namespace moe
