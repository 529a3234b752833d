// SPDX-License-Identifier: Apache-2.0
#include "split/construction.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "split/split_context.h"

namespace moe {
namespace {

using test::random_calibration;
using test::random_weights;
using test::split_context;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr std::int64_t kHidden = 12;

class EveryMethod : public testing::TestWithParam<std::string> {
 protected:
  /// Splits `neurons` among `experts` routed experts, and `shared` ones where the method makes any,
  /// and checks what every split must keep to.
  Partition split(std::int64_t neurons, std::int64_t experts, std::int64_t shared,
                  std::uint64_t seed, int threads = 1) {
    const test::OpenMpThreads scope(threads);
    const auto method = make_construction(GetParam(), {});
    const LayerCalibration calibration = random_calibration(neurons, kHidden, experts, seed);
    SplitContext context = {0, seed, neurons, method->sizes(neurons, experts)};
    context.calibration = &calibration;
    if (method->shares() && shared > 0) {
      context.sizes = even_sizes(neurons, experts + shared);
      context.shared_sizes.assign(context.sizes.begin() + experts, context.sizes.end());
      context.sizes.resize(std::size_t(experts));
    }
    const Partition partition = method->split(context, random_weights(neurons, kHidden)).partition;
    EXPECT_NO_THROW(check_partition(partition, neurons, method->coverage()));
    EXPECT_EQ(sizes_of(partition.experts), context.sizes);
    EXPECT_EQ(sizes_of(partition.shared), context.shared_sizes);
    return partition;
  }
};

TEST_P(EveryMethod, KeepsToItsCoverageAndToTheSizesAskedFor) {
  const Philox random(8, RandomPurpose::test);
  for (std::uint64_t trial = 0; trial < 40; ++trial) {
    const auto below = [&](std::uint64_t which, std::uint64_t n) {
      return std::int64_t(random.below(trial * 10 + which, n));
    };
    const std::int64_t experts = 1 + below(0, 12), shared = below(1, 3);
    const std::int64_t neurons = experts + shared + below(2, 90);
    SCOPED_TRACE(str(neurons, " neurons, ", experts, " experts, ", shared, " shared"));
    split(neurons, experts, shared, trial);
  }
}

TEST_P(EveryMethod, V1Defect25UnevenSizesWork) {
  split(172, 8, 0, 1);
  split(172, 7, 2, 1);
}

TEST_P(EveryMethod, CanGiveEachNeuronAnExpert) { split(30, 30, 0, 1); }

TEST_P(EveryMethod, IsTheSameOnEveryCallAndAnyNumberOfThreads) {
  const Partition once = split(300, 8, 1, 3);
  EXPECT_EQ(split(300, 8, 1, 3), once);
  EXPECT_EQ(split(300, 8, 1, 3, 3), once);
}

TEST_P(EveryMethod, NamesTheOptionThatGivesTheCalibrationItNeeds) {
  const auto method = make_construction(GetParam(), {});
  SplitContext context = split_context(20, 4);
  context.sizes = method->sizes(20, 4);
  if (method->need() == CalibrationNeed::nothing) {
    EXPECT_NO_THROW(method->split(context, random_weights(20, kHidden)));
    return;
  }
  const auto split = [&] { method->split(context, random_weights(20, kHidden)); };
  const auto says_so = AllOf(HasSubstr(GetParam()), HasSubstr("--calibration"));
  EXPECT_THAT(split, ThrowsMessage<InputError>(says_so));
  const LayerCalibration empty;
  context.calibration = &empty;
  EXPECT_THAT(split, ThrowsMessage<InputError>(says_so));
}

INSTANTIATE_TEST_SUITE_P(Construction, EveryMethod, testing::ValuesIn(construction_names()),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Construction, UnknownMethodIsRefusedWithTheNamesOfAll) {
  EXPECT_THAT([] { make_construction("kmeans", {}); },
              ThrowsMessage<InputError>(
                  HasSubstr("use random or sequential or clustering or coactivation or gradient or "
                            "sharing-inner or sharing-inter or residual or joint or energy or "
                            "cmoe or gate-variation or copy")));
}

TEST(Construction, WhoeverDoesNotSayOtherwiseMakesEvenPartsScaledLikeLlamaMoe) {
  for (const std::string& name : construction_names()) {
    if (name == "copy") continue;
    const auto method = make_construction(name, {});
    EXPECT_THAT(method->sizes(11, 3), ElementsAre(4, 4, 3)) << name;
    EXPECT_EQ(method->natural_scale(16, 4), 4) << name;
  }
}

TEST(Construction, OnlyMethodsThatKnowHowMakeSharedExperts) {
  std::vector<std::string> sharing;
  for (const std::string& name : construction_names())
    if (make_construction(name, {})->shares()) sharing.push_back(name);
  EXPECT_THAT(sharing, ElementsAre("sharing-inter", "residual", "joint", "energy", "cmoe",
                                   "gate-variation"));
}

TEST(Construction, CalibrationIsAskedForAsTheMethodNeedsIt) {
  ConstructionOptions by_inputs;
  by_inputs.importance_from = "inputs";
  for (const std::string name : {"gradient", "sharing-inner", "sharing-inter", "residual"}) {
    EXPECT_EQ(make_construction(name, {})->need(), CalibrationNeed::importance_by_document);
    EXPECT_EQ(make_construction(name, by_inputs)->need(), CalibrationNeed::importance_by_input);
  }
  EXPECT_EQ(make_construction("coactivation", {})->need(), CalibrationNeed::inputs);
  for (const std::string name : {"joint", "energy", "cmoe", "gate-variation"})
    EXPECT_EQ(make_construction(name, {})->need(), CalibrationNeed::own_inputs);
  for (const std::string name : {"random", "sequential", "clustering", "copy"})
    EXPECT_EQ(make_construction(name, {})->need(), CalibrationNeed::nothing);
}

}  // namespace
}  // namespace moe
