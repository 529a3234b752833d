// SPDX-License-Identifier: Apache-2.0
#include "data/loader.h"

#include <algorithm>

#include "data/data_test_support.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::int32_t> values(const Tensor& t) {
  return {t.data<std::int32_t>(), t.data<std::int32_t>() + t.size()};
}

class LoaderTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kLength = 16, kVocabulary = 600;
  TestFolder folder_;
  std::vector<std::vector<std::int32_t>> streams_;  // all tokens of each domain
  std::vector<DomainSource> sources_;

  void SetUp() override {
    add_domain("wiki", 0.7,
               {random_documents(20, 30, 500, 1), random_documents(9, 5, 600, 2),
                random_documents(20, 30, 500, 3)});
    add_domain("code", 0.3, {random_documents(10, 40, 300, 4)});
  }

  void add_domain(const std::string& name, double weight,
                  const std::vector<std::vector<Document>>& shards) {
    DomainSource source{name, {}, weight};
    auto& stream = streams_.emplace_back();
    for (const auto& documents : shards) {
      source.files.push_back(folder_ / str(name, source.files.size(), ".h5"));
      write_shard(source.files.back(), documents, kVocabulary, "", name);
      const auto ids = concatenated(documents);
      stream.insert(stream.end(), ids.begin(), ids.end());
    }
    sources_.push_back(source);
  }

  Loader loader() const { return Loader(sources_, kLength, 42, kVocabulary); }
};

TEST_F(LoaderTest, LoadsTheTokensThatThePlanNames) {
  const Loader loader = this->loader();
  MixtureState state = loader.mixture().initial_state();
  int short_rows = 0;
  for (std::int64_t step = 0; step < 12; ++step) {
    const StepPlan plan = loader.plan(step, 8, state);
    const Batch batch = loader.load(plan, 0, 8);
    ASSERT_EQ(batch.tokens.shape(), (Shape{8, kLength}));
    ASSERT_EQ(batch.labels.shape(), (Shape{8, kLength}));
    const auto tokens = values(batch.tokens), labels = values(batch.labels);
    for (std::int64_t row = 0; row < 8; ++row) {
      const PlannedSequence& sequence = plan.sequences[std::size_t(row)];
      EXPECT_EQ(batch.domains[std::size_t(row)], sequence.domain);
      EXPECT_EQ(batch.sequence_ids[std::size_t(row)], step * 8 + row);
      const auto& stream = streams_[std::size_t(sequence.domain)];
      for (std::int64_t i = 0; i < kLength; ++i) {
        const auto at = std::size_t(sequence.index * kLength + i);
        const bool inside = at + 1 < stream.size();
        EXPECT_EQ(tokens[std::size_t(row * kLength + i)], inside ? stream[at] : -1);
        EXPECT_EQ(labels[std::size_t(row * kLength + i)], inside ? stream[at + 1] : -1);
        short_rows += !inside && i + 1 == kLength;
      }
    }
    EXPECT_EQ(plan.labels,
              std::count_if(labels.begin(), labels.end(), [](int l) { return l >= 0; }));
    EXPECT_EQ(plan.tokens,
              std::count_if(tokens.begin(), tokens.end(), [](int t) { return t >= 0; }));
    state = plan.next;
  }
  EXPECT_GT(short_rows, 0) << "padding was not met: choose other sizes";
}

TEST_F(LoaderTest, AnyPartitionOfTheBatchGivesTheSameSequences) {
  const Loader loader = this->loader();
  const StepPlan plan = loader.plan(5, 12, MixtureState{{30, 7}, {0.7, 0.3}, {0.25, -0.25}});
  const Batch whole = loader.load(plan, 0, 12);
  for (const std::vector<std::int64_t>& counts :
       {std::vector<std::int64_t>{6, 6}, {1, 0, 4, 7}, {3, 3, 3, 3}}) {
    std::int64_t first = 0;
    const Loader own = this->loader();  // every rank has its own
    for (const std::int64_t count : counts) {
      const Batch part = own.load(plan, first, count);
      EXPECT_EQ(values(part.tokens), values(whole.tokens.slice(first, count)));
      EXPECT_EQ(values(part.labels), values(whole.labels.slice(first, count)));
      for (std::int64_t i = 0; i < count; ++i) {
        EXPECT_EQ(part.sequence_ids[std::size_t(i)], whole.sequence_ids[std::size_t(first + i)]);
        EXPECT_EQ(part.domains[std::size_t(i)], whole.domains[std::size_t(first + i)]);
      }
      first += count;
    }
  }
  EXPECT_THROW(loader.load(plan, 10, 3), Error);
}

TEST_F(LoaderTest, ARunResumedFromTheStateIsTheUninterruptedRun) {
  const Loader straight = this->loader();
  MixtureState state = straight.mixture().initial_state();
  std::vector<std::vector<std::int32_t>> batches;
  std::vector<MixtureState> states;
  for (std::int64_t step = 0; step < 10; ++step) {
    states.push_back(state);
    const StepPlan plan = straight.plan(step, 5, state);
    batches.push_back(values(straight.load(plan, 0, 5).tokens));
    state = plan.next;
  }
  const Loader resumed = this->loader();
  state = states[6];
  for (std::int64_t step = 6; step < 10; ++step) {
    const StepPlan plan = resumed.plan(step, 5, state);
    EXPECT_EQ(values(resumed.load(plan, 0, 5).tokens), batches[std::size_t(step)]);
    state = plan.next;
  }
}

TEST_F(LoaderTest, OneEpochScoresEveryTokenOfADomainOnce) {
  const Loader loader({sources_[0]}, kLength, 1, kVocabulary);
  const std::int64_t sequences = loader.sequences(0).count();
  const StepPlan plan = loader.plan(0, sequences, loader.mixture().initial_state());
  const Batch batch = loader.load(plan, 0, sequences);
  std::vector<std::int32_t> labels;
  std::vector<std::int64_t> by_index(static_cast<std::size_t>(sequences));
  for (std::int64_t row = 0; row < sequences; ++row)
    by_index[std::size_t(plan.sequences[std::size_t(row)].index)] = row;
  for (const std::int64_t row : by_index)
    for (const std::int32_t id : values(batch.labels.slice(row, 1)))
      if (id >= 0) labels.push_back(id);
  const auto& stream = streams_[0];
  EXPECT_EQ(labels, std::vector(stream.begin() + 1, stream.end()));
  EXPECT_EQ(plan.labels, std::int64_t(stream.size()) - 1);
}

TEST_F(LoaderTest, ShardsThatDoNotFitTheModelOrEachOtherAreRefused) {
  EXPECT_THAT(input_error_of([&] { Loader(sources_, kLength, 1, kVocabulary - 1); }),
              AllOf(HasSubstr("wiki0.h5"), HasSubstr("a vocabulary of 600, the model has 599")));
  write_shard(folder_ / "x.h5", {{1, 2, 3}}, 600, "aaaa");
  write_shard(folder_ / "y.h5", {{1, 2, 3}}, 600, "bbbb");
  const auto error = [&](std::vector<DomainSource> sources) {
    return input_error_of([&] { Loader(sources, kLength, 1, kVocabulary); });
  };
  const auto both = AllOf(HasSubstr("x.h5"), HasSubstr("y.h5"), HasSubstr("another tokenizer"));
  EXPECT_THAT(error({{"d", {folder_ / "x.h5", folder_ / "y.h5"}, 1}}), both);
  EXPECT_THAT(error({sources_[0], {"x", {folder_ / "x.h5"}, 1}, {"y", {folder_ / "y.h5"}, 1}}),
              both);
  EXPECT_NO_THROW(Loader({sources_[0], {"x", {folder_ / "x.h5"}, 1}}, kLength, 1, kVocabulary))
      << "an unknown tokenizer goes with every other";
  EXPECT_THAT(error({{"d", {}, 1}}), HasSubstr("domain 'd' has no token shards"));
  EXPECT_THAT(error({{"d", {folder_ / "none.h5"}, 1}}), HasSubstr("none.h5"));
}

}  // namespace
}  // namespace moe
