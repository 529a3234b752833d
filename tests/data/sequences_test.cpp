// SPDX-License-Identifier: Apache-2.0
#include "data/sequences.h"

#include <map>
#include <numeric>
#include <set>

#include "data/data_test_support.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

TEST(SequenceCut, ScoresEveryTokenButTheFirstOnce) {
  for (std::int64_t tokens = 2; tokens < 40; ++tokens)
    for (std::int64_t length = 1; length < 15; ++length) {
      const SequenceCut cut{tokens, length};
      std::int64_t inputs = 0;
      for (std::int64_t i = 0; i < cut.count(); ++i) {
        EXPECT_GE(cut.inputs(i), 1);
        EXPECT_LE(cut.inputs(i), length);
        EXPECT_TRUE(i + 1 == cut.count() || cut.inputs(i) == length);
        inputs += cut.inputs(i);
      }
      EXPECT_EQ(inputs, tokens - 1) << tokens << " " << length;
    }
}

/// Shards in which every token is its own number: id t + 1 follows id t in a document, and the id
/// between two documents is missing. So what follows what can be told from the ids alone.
class SequencesTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kVocabulary = 60000;
  TestFolder folder_;
  std::vector<std::filesystem::path> files_;
  std::vector<Document> documents_;

  void add_shard(const std::vector<std::int64_t>& lengths) {
    std::vector<Document> documents;
    for (const std::int64_t n : lengths) {
      Document& d = documents.emplace_back(std::size_t(n));
      std::iota(d.begin(), d.end(), next_);
      next_ += std::int32_t(n) + 1;
    }
    files_.push_back(folder_ / str(files_.size(), ".h5"));
    write_shard(files_.back(), documents, kVocabulary);
    documents_.insert(documents_.end(), documents.begin(), documents.end());
  }

  void SetUp() override {
    const Philox random(7, RandomPurpose::test);
    std::vector<std::int64_t> lengths = {1, 2, 3, 200, 33, 32, 34, 1, 1};
    for (std::uint64_t i = 0; i < 60; ++i) lengths.push_back(1 + std::int64_t(random.below(i, 90)));
    add_shard(lengths);
    add_shard({5});
    add_shard({1, 100, 7, 7, 7, 1});
  }

  struct Token {
    std::int32_t id, label, start;
    std::int64_t row, column;
  };
  /// All that is not padding; checks the padding and sizes on the way.
  static std::vector<Token> read(const Sequences& sequences) {
    std::vector<Token> all;
    const std::int64_t length = sequences.length();
    std::int64_t all_labels = 0;
    for (std::int64_t i = 0; i < sequences.count(); ++i) {
      Batch batch = sequences.empty_batch(2);
      sequences.fill(i, batch, 1);
      Sequences::Size size{0, 0};
      bool padding = false;
      for (std::int64_t c = 0; c < length; ++c) {
        const auto at = [&](const Tensor& t) { return t.data<std::int32_t>()[length + c]; };
        Token token{at(batch.tokens), at(batch.labels), -1, i, c};
        if (batch.document_starts.defined()) token.start = at(batch.document_starts);
        EXPECT_TRUE(!padding || token.id < 0) << "padding only at the end";
        padding = token.id < 0;
        if (padding) {
          EXPECT_EQ(token.label, -1);
          EXPECT_TRUE(token.start == -1 || (token.start >= 0 && token.start <= c));
          continue;
        }
        ++size.tokens;
        size.labels += token.label >= 0;
        all.push_back(token);
      }
      EXPECT_EQ(sequences.size(i).tokens, size.tokens);
      EXPECT_EQ(sequences.size(i).labels, size.labels);
      all_labels += size.labels;
    }
    EXPECT_EQ(sequences.labels(), all_labels);
    return all;
  }

  Sequences sequences(std::int64_t length, Packing packing, bool masks) const {
    return Sequences(files_, length, kVocabulary, {packing, masks});
  }
  std::int32_t next_ = 1;
};

TEST_F(SequencesTest, ConcatenatingReadsTheStreamOnceWithTheTokenThatFollowsAsLabel) {
  const auto stream = concatenated(documents_);
  for (const std::int64_t length : {1, 2, 32, 33, 5000}) {
    const auto tokens = read(sequences(length, Packing::concatenate, false));
    ASSERT_EQ(tokens.size(), stream.size() - 1);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      EXPECT_EQ(tokens[i].id, stream[i]);
      EXPECT_EQ(tokens[i].label, stream[i + 1]);
      EXPECT_EQ(tokens[i].start, -1);
    }
  }
}

TEST_F(SequencesTest, MasksTakeLabelsAcrossDocumentsAndNothingElse) {
  const auto stream = concatenated(documents_);
  for (const std::int64_t length : {1, 2, 32, 33, 5000}) {
    const auto tokens = read(sequences(length, Packing::concatenate, true));
    ASSERT_EQ(tokens.size(), stream.size() - 1);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      EXPECT_EQ(tokens[i].id, stream[i]);
      const bool same_document = stream[i + 1] == stream[i] + 1;
      EXPECT_EQ(tokens[i].label, same_document ? stream[i + 1] : -1);
    }
  }
}

TEST_F(SequencesTest, BestFitHasEveryTokenButEachDocumentsLastOnceWithTheOneThatFollows) {
  for (const bool masks : {false, true})
    for (const std::int64_t length : {1, 2, 32, 33, 5000}) {
      std::map<std::int32_t, int> inputs, labels, wanted_inputs, wanted_labels;
      for (const Document& d : documents_)
        for (std::size_t i = 0; i + 1 < d.size(); ++i)
          ++wanted_inputs[d[i]], ++wanted_labels[d[i + 1]];
      for (const Token& t : read(sequences(length, Packing::best_fit, masks))) {
        ++inputs[t.id];
        ++labels[t.label];
        EXPECT_EQ(t.label, t.id + 1);
      }
      EXPECT_EQ(inputs, wanted_inputs);
      EXPECT_EQ(labels, wanted_labels);
    }
}

TEST_F(SequencesTest, StartsAreWhereTheTokensOfADocumentBeginInTheRow) {
  for (const Packing packing : {Packing::concatenate, Packing::best_fit})
    for (const std::int64_t length : {1, 2, 32, 33, 5000}) {
      Token before{-5, -1, -1, -1, -1};
      for (const Token& t : read(sequences(length, packing, true))) {
        const bool goes_on = t.row == before.row && t.id == before.id + 1 && t.column > 0;
        EXPECT_EQ(t.start, goes_on ? before.start : std::int32_t(t.column));
        before = t;
      }
    }
}

TEST_F(SequencesTest, BestFitCutsOnlyDocumentsThatAreLongerThanASequence) {
  std::map<std::int32_t, std::int64_t> row_of;
  for (const Token& t : read(sequences(32, Packing::best_fit, true))) row_of[t.id] = t.row;
  std::int64_t cut = 0, whole = 0;
  for (const Document& d : documents_) {
    if (d.size() < 2) continue;
    std::set<std::int64_t> rows;
    for (std::size_t i = 0; i + 1 < d.size(); ++i) rows.insert(row_of.at(d[i]));
    EXPECT_EQ(rows.size(), (d.size() - 1 + 31) / 32);
    (rows.size() > 1 ? cut : whole) += 1;
  }
  EXPECT_GT(cut, 5);
  EXPECT_GT(whole, 5);
}

TEST_F(SequencesTest, BestFitLeavesLittlePaddingWhereDocumentsAreShort) {
  add_shard(std::vector<std::int64_t>(400, 9));
  const Sequences packed = sequences(256, Packing::best_fit, true);
  EXPECT_LT(double(packed.count() * 256 - packed.labels()) / double(packed.labels()), 0.05);
}

TEST_F(SequencesTest, RefusesDomainsWithoutTwoTokensThatFollowOneAnother) {
  files_.clear();
  add_shard({1, 1, 1});
  EXPECT_EQ(sequences(8, Packing::concatenate, false).labels(), 2);
  for (const auto& [packing, masks] : {std::pair(Packing::concatenate, true),
                                       {Packing::best_fit, false},
                                       {Packing::best_fit, true}})
    EXPECT_THAT(input_error_of([&] { sequences(8, packing, masks); }),
                HasSubstr("nothing to score"));
}

TEST_F(SequencesTest, ManyShardsAreOpenedWhenTheyAreReadAndDamageIsNamedThen) {
  TestFolder folder;
  std::vector<std::filesystem::path> many;
  for (std::size_t i = 0; i <= TokenStream::kCheckedAtStart; ++i) {
    many.push_back(folder / str(i, ".h5"));
    write_shard(many.back(), {{1, 2, 3}}, 10);
  }
  std::string bytes = read_bytes(many[200]);
  bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 1);
  bytes[100] = char(bytes[100] ^ 1);
  write_bytes(many[200], bytes);
  const Sequences sequences(many, 3, 10);
  Batch batch = sequences.empty_batch(1);
  EXPECT_NO_THROW(sequences.fill(0, batch, 0));
  EXPECT_THAT(input_error_of([&] { sequences.fill(200, batch, 0); }), HasSubstr("200.h5"));
  std::filesystem::remove(many[100]);
  EXPECT_THAT(input_error_of([&] { Sequences(many, 3, 10); }), HasSubstr("100.h5"));
  many.resize(100);
  EXPECT_NO_THROW(Sequences(many, 3, 10));
}

}  // namespace
}  // namespace moe
