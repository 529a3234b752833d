// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <cmath>
#include <map>

#include "core/error.h"
#include "split/assign_by_importance.h"
#include "split/split_context.h"

namespace moe {
namespace {

using test::random_tensor;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

using Rows = std::vector<std::vector<double>>;

Tensor scores_of(const Rows& rows) {
  std::vector<double> all;
  for (const auto& row : rows) all.insert(all.end(), row.begin(), row.end());
  return Tensor::of<double>({std::int64_t(rows.size()), std::int64_t(rows[0].size())}, all);
}

LayerSplit split(const char* method, const Tensor& scores, std::vector<std::int64_t> sizes,
                 std::vector<std::int64_t> shared_sizes = {},
                 const ConstructionOptions& options = {}) {
  const LayerCalibration calibration = {Tensor(), scores};
  const SplitContext context = {
      3, 42, scores.cols(), std::move(sizes), std::move(shared_sizes), &calibration};
  const FfnWeights none = [](std::string_view) -> Tensor { throw Error("weights were read"); };
  return make_construction(method, options)->split(context, none);
}

ConstructionOptions shared_by(const char* order) {
  ConstructionOptions options;
  options.shared_by = order;
  return options;
}

// The toy of LLaMA-MoE v1: experts vote for two neurons each, {0, 1}, {0, 3} and {2, 1}; 0 and 1
// have two votes and are shared. Of the rest, expert 0's best are 2 (7) and 7 (4), expert 1's 3 (8)
// and 2 (7), expert 2's 2 (9) and 4 (7).
const Rows kToy = {{9, 8, 7, 1, 2, 3, 0, 4}, {9, 1, 7, 8, 2, 0, 3, 4}, {0, 8, 9, 1, 7, 2, 3, 4}};

TEST(SharingInterConstruction, GivesWhatLlamaMoeGivesForItsToy) {
  for (const char* order : {"score", "index"}) {
    const Partition p =
        split("sharing-inter", scores_of(kToy), {2, 2, 2}, {2}, shared_by(order)).partition;
    EXPECT_THAT(p.shared, ElementsAre(ElementsAre(0, 1))) << order;
    EXPECT_THAT(p.experts, ElementsAre(ElementsAre(2, 7), ElementsAre(2, 3), ElementsAre(2, 4)));
  }
}

// After 0 and 1 are shared, greedy by score over 2..7: 9 (expert 2, neuron 2), 8 (1, 3), 7 (2, 4)
// fills expert 2 (the sevens for neuron 2 find it gone), 4 for neuron 7 by all: the last with room,
// expert 1, which is full then. Expert 0 gets 5 and 6.
TEST(ResidualConstruction, DividesWhatIsNotSharedGreedily) {
  const Partition p = split("residual", scores_of(kToy), {2, 2, 2}, {2}).partition;
  EXPECT_THAT(p.shared, ElementsAre(ElementsAre(0, 1)));
  EXPECT_THAT(p.experts, ElementsAre(ElementsAre(5, 6), ElementsAre(3, 7), ElementsAre(2, 4)));
}

// Experts vote for {1, 2} and {2, 3}. Neuron 2 has two votes and is taken first; then they vote for
// {1, 0} and {3, 1}: 1 has two votes; then {0, 3} and {3, 0}: both have two, the sums are 7 and 9.
// Four neurons in the order 2, 1, 3, 0 make shared experts {2}, {1, 3}, {0}.
TEST(ResidualConstruction, ExpertsVoteAgainUntilTheSharedOnesAreFull) {
  const Rows scores = {{6, 8, 9, 2, 0, 1}, {1, 3, 9, 7, 0, 0}};
  const Partition p = split("sharing-inter", scores_of(scores), {2, 2}, {1, 2, 1}).partition;
  EXPECT_THAT(p.shared, ElementsAre(ElementsAre(2), ElementsAre(1, 3), ElementsAre(0)));
  EXPECT_THAT(p.experts, ElementsAre(ElementsAre(4, 5), ElementsAre(4, 5)));
  EXPECT_THAT(split("sharing-inter", scores_of(scores), {2, 2}, {1, 2, 1}, shared_by("index"))
                  .partition.shared,
              ElementsAre(ElementsAre(2), ElementsAre(0, 1), ElementsAre(3)));
}

// Both experts vote for 0 and 4, one of which can be shared: 4 is worth 17 to them, 0 is worth 11.
// With 4 gone: 6 (expert 1, neuron 0), then the threes for neuron 3 (expert 0) and 1 (expert 1):
// the last expert comes first and is full; expert 0 keeps 2 and 3.
TEST(ResidualConstruction, V2SharedNeuronsAreChosenByScoreNotByIndex) {
  const Rows scores = {{5, 1, 2, 3, 9}, {6, 3, 2, 1, 8}};
  const Partition p = split("residual", scores_of(scores), {2, 2}, {1}).partition;
  EXPECT_THAT(p.shared, ElementsAre(ElementsAre(4)));
  EXPECT_THAT(p.experts, ElementsAre(ElementsAre(2, 3), ElementsAre(0, 1)));
  EXPECT_THAT(
      split("residual", scores_of(scores), {2, 2}, {1}, shared_by("index")).partition.shared,
      ElementsAre(ElementsAre(0)));
}

TEST(ResidualConstruction, WithoutSharedExpertsIsGradient) {
  const Tensor scores = random_tensor({4, 30}, DType::f64, 5);
  const Partition p = split("residual", scores, even_sizes(30, 4)).partition;
  EXPECT_THAT(p.shared, IsEmpty());
  EXPECT_EQ(p, split("gradient", scores, even_sizes(30, 4)).partition);
}

// By score: 9 (expert 0, neuron 1), 8 for neuron 1 too late, 7 (1, 3), 6 (1, 0): expert 1 is full,
// expert 0 finds 0 and 3 gone and takes 2. Of its cluster's 18, expert 0 holds 9 + 1, of its 23
// expert 1 holds 7 + 6.
TEST(GradientConstruction, LargestScoresChooseFirst) {
  const LayerSplit s = split("gradient", scores_of({{5, 9, 1, 3}, {6, 8, 2, 7}}), {2, 2});
  EXPECT_THAT(s.partition.experts, ElementsAre(ElementsAre(1, 2), ElementsAre(0, 3)));
  const std::map<std::string, double> m(s.measures.begin(), s.measures.end());
  EXPECT_DOUBLE_EQ(m.at("importance_own"), (10.0 / 18 + 13.0 / 23) / 2);
  EXPECT_DOUBLE_EQ(m.at("importance_own_and_shared"), m.at("importance_own"));
  EXPECT_EQ(m.at("neurons_unused"), 0);
}

TEST(GradientConstruction, TiesGoToTheLastExpertAndItsLowestNeuronAsInLlamaMoe) {
  EXPECT_THAT(split("gradient", Tensor::zeros({2, 5}, DType::f64), {3, 2}).partition.experts,
              ElementsAre(ElementsAre(2, 3, 4), ElementsAre(0, 1)));
}

// Cluster 0's gradients are larger: raw, it takes its best two, 0 and 1. Divided by the means 85
// and 2 the scores are 1.18 1.06 0.94 0.82 and 1.5 0.5 0.5 1.5: expert 1 has 0 and 3 first.
TEST(GradientConstruction, V2NormalisedScoresLetNoClusterChooseFirst) {
  const Rows scores = {{100, 90, 80, 70}, {3, 1, 1, 3}};
  ConstructionOptions normalised;
  normalised.normalise_importance = true;
  EXPECT_THAT(split("gradient", scores_of(scores), {2, 2}).partition.experts,
              ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3)));
  EXPECT_THAT(split("gradient", scores_of(scores), {2, 2}, {}, normalised).partition.experts,
              ElementsAre(ElementsAre(1, 2), ElementsAre(0, 3)));
}

// Sorted as text, cluster 10 would be expert 2.
TEST(GradientConstruction, V1Defect5ClusterTenIsExpertTen) {
  Rows scores(12, std::vector<double>(36, 1));
  for (std::size_t e = 0; e < 12; ++e)
    for (std::size_t j = 0; j < 3; ++j) scores[e][(e * 7 + j * 12) % 36] = 2 + double(e);
  const NeuronSets experts =
      split("gradient", scores_of(scores), even_sizes(36, 12)).partition.experts;
  for (std::size_t e = 0; e < 12; ++e)
    EXPECT_THAT(experts[e], testing::UnorderedElementsAre(std::int64_t(e * 7 % 36),
                                                          std::int64_t((e * 7 + 12) % 36),
                                                          std::int64_t((e * 7 + 24) % 36)))
        << "expert " << e;
}

/// LLaMA-MoE's loop, as its authors describe it: a pointer into each expert's sorted list.
NeuronSets greedy_by_pointers(const Tensor& scores, const std::vector<std::int64_t>& sizes) {
  const std::int64_t neurons = scores.cols();
  const auto score = [&](std::size_t e, std::int64_t n) {
    return scores.data<double>()[std::int64_t(e) * neurons + n];
  };
  NeuronSets lists(sizes.size()), experts(sizes.size());
  std::vector<std::size_t> head(sizes.size(), 0);
  for (std::size_t e = 0; e < sizes.size(); ++e) {
    for (std::int64_t n = 0; n < neurons; ++n) lists[e].push_back(n);
    std::stable_sort(lists[e].begin(), lists[e].end(),
                     [&](std::int64_t a, std::int64_t b) { return score(e, a) > score(e, b); });
  }
  std::vector<bool> used(std::size_t(neurons), false);
  for (std::int64_t round = 0; round < neurons; ++round) {
    std::size_t winner = sizes.size();
    for (std::size_t e = 0; e < sizes.size(); ++e) {
      if (std::int64_t(experts[e].size()) == sizes[e]) continue;
      while (used[std::size_t(lists[e][head[e]])]) ++head[e];
      if (winner == sizes.size() ||
          score(e, lists[e][head[e]]) >= score(winner, lists[winner][head[winner]]))
        winner = e;
    }
    const std::int64_t n = lists[winner][head[winner]];
    used[std::size_t(n)] = true;
    experts[winner].push_back(n);
  }
  for (auto& expert : experts) std::sort(expert.begin(), expert.end());
  return experts;
}

TEST(AssignDisjoint, AgreesWithTheLoopOverPointersAlsoWhereScoresAreEqual) {
  const Philox random(21, RandomPurpose::test);
  for (std::uint64_t trial = 0; trial < 200; ++trial) {
    const std::int64_t experts = 1 + std::int64_t(random.below(2 * trial, 6));
    const std::int64_t neurons = experts + std::int64_t(random.below(2 * trial + 1, 40));
    Tensor scores = random_tensor({experts, neurons}, DType::f64, trial);
    if (trial % 2 == 0)
      for (std::int64_t i = 0; i < scores.size(); ++i)
        scores.data<double>()[i] = std::round(2 * scores.data<double>()[i]);
    const auto sizes = even_sizes(neurons, experts);
    ASSERT_EQ(assign_disjoint(scores, sizes), greedy_by_pointers(scores, sizes)) << trial;
  }
}

// Expert 0's best three are 5 (9), 0 (8) and 2 (4; 3 has 4 too, but is higher), expert 1's best is
// 0. Neurons 1, 3 and 4 are in no expert, 0 is in both.
TEST(SharingInnerConstruction, EveryExpertTakesItsOwnBest) {
  const Rows scores = {{8, 0, 4, 4, 1, 9}, {7, 6, 5, 4, 3, 2}};
  const LayerSplit s = split("sharing-inner", scores_of(scores), {3, 1});
  EXPECT_THAT(s.partition.experts, ElementsAre(ElementsAre(0, 2, 5), ElementsAre(0)));
  const std::map<std::string, double> m(s.measures.begin(), s.measures.end());
  EXPECT_DOUBLE_EQ(m.at("importance_own"), (21.0 / 26 + 7.0 / 27) / 2);
  EXPECT_EQ(m.at("neurons_unused"), 3);
}

TEST(SharingInnerConstruction, ExpertsMayHoldMoreThanTheDenseModelInAll) {
  const Tensor scores = random_tensor({3, 10}, DType::f64, 1);
  EXPECT_THAT(sizes_of(split("sharing-inner", scores, {10, 8, 9}).partition.experts),
              ElementsAre(10, 8, 9));
}

TEST(SharingInterConstruction, MeasuresCountSharedNeuronsForEveryExpert) {
  const LayerSplit s = split("sharing-inter", scores_of(kToy), {2, 2, 2}, {2});
  const std::map<std::string, double> m(s.measures.begin(), s.measures.end());
  EXPECT_DOUBLE_EQ(m.at("importance_own"), (11.0 / 34 + 15.0 / 34 + 16.0 / 34) / 3);
  EXPECT_DOUBLE_EQ(m.at("importance_own_and_shared"), (28.0 + 25 + 24) / 34 / 3);
  EXPECT_EQ(m.at("neurons_unused"), 2) << "5 and 6";
}

TEST(ImportanceConstruction, RowsBeyondTheExpertsAreNotRead) {
  Tensor scores = random_tensor({5, 20}, DType::f64, 9);
  const Tensor first = scores.slice(0, 3).clone();
  std::fill_n(scores.data<double>() + 3 * 20, 2 * 20, NAN);
  for (const char* method : {"gradient", "sharing-inner", "residual"})
    EXPECT_EQ(split(method, scores, even_sizes(20, 3)).partition,
              split(method, first, even_sizes(20, 3)).partition)
        << method;
}

TEST(ImportanceConstruction, NormalisingLeavesRowsOfZerosAndTheCallersScores) {
  const Tensor scores = scores_of({{1, -3}, {0, 0}});
  EXPECT_EQ(test::to_doubles(normalised_importance(scores)),
            (std::vector<double>{0.5, -1.5, 0, 0}));
  EXPECT_EQ(test::to_doubles(scores), (std::vector<double>{1, -3, 0, 0}));
}

TEST(ImportanceConstruction, WhatCannotBeIsRefused) {
  const Tensor scores = random_tensor({3, 8}, DType::f64, 2);
  EXPECT_THAT(
      [&] {
        split("gradient", scores, {2, 2, 2, 2});
      },
      ThrowsMessage<InputError>(HasSubstr("layer 3: importance for 3 clusters of text")));
  EXPECT_THAT(
      [&] {
        split("gradient", scores, {2, 2, 2});
      },
      ThrowsMessage<InputError>(HasSubstr("6 neurons")));
  EXPECT_THAT(
      [&] {
        split("residual", scores, {2, 2, 2}, {3});
      },
      ThrowsMessage<InputError>(HasSubstr("6 neurons")));
  EXPECT_THAT(
      [&] {
        split("sharing-inner", scores, {2, 9, 2});
      },
      ThrowsMessage<InputError>(HasSubstr("expert 1 is to have 9 neurons")));
  EXPECT_THAT(
      [&] {
        split("sharing-inter", scores, {2, 2, 2}, {9});
      },
      ThrowsMessage<InputError>(HasSubstr("9 neurons of 8")));
  EXPECT_THAT(
      [&] {
        split("sharing-inter", scores, {2, 2, 2}, {7});
      },
      ThrowsMessage<InputError>(HasSubstr("only 1 to choose from")));
  scores.data<double>()[13] = INFINITY;
  EXPECT_THAT([&] { split("gradient", scores, even_sizes(8, 3)); },
              ThrowsMessage<InputError>(HasSubstr("importance of neuron 5 to cluster 1 is inf")));
  ConstructionOptions from;
  from.importance_from = "tokens";
  for (const char* method : {"gradient", "sharing-inner", "sharing-inter", "residual"}) {
    EXPECT_THROW(make_construction(method, from), InputError) << method;
    EXPECT_THROW(make_construction(method, shared_by("votes")), InputError) << method;
  }
}

}  // namespace
}  // namespace moe
