// SPDX-License-Identifier: Apache-2.0
#include "data/held_out.h"

#include <map>

#include "data/data_test_support.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

std::vector<std::int32_t> row_of(const Tensor& t, std::int64_t row) {
  const std::int32_t* begin = t.data<std::int32_t>() + row * t.cols();
  return {begin, begin + t.cols()};
}

class HeldOutTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kVocabulary = 500;
  TestFolder folder_;
  std::vector<std::filesystem::path> files_;
  std::vector<Document> documents_;

  void add_shard(const std::vector<Document>& documents) {
    files_.push_back(folder_ / str(files_.size(), ".h5"));
    write_shard(files_.back(), documents, kVocabulary);
    documents_.insert(documents_.end(), documents.begin(), documents.end());
  }

  /// Every (input, label) pair, by sequence id, and the widths of the rows.
  static std::map<std::int64_t, std::vector<std::pair<std::int32_t, std::int32_t>>> pairs_of(
      const HeldOut& held_out, std::int64_t batch) {
    std::map<std::int64_t, std::vector<std::pair<std::int32_t, std::int32_t>>> pairs;
    std::int64_t labels = 0;
    for (std::int64_t first = 0; first < held_out.sequences(); first += batch) {
      const std::int64_t count = std::min(batch, held_out.sequences() - first);
      const Batch b = held_out.load(first, count);
      for (std::int64_t row = 0; row < count; ++row) {
        const auto tokens = row_of(b.tokens, row), targets = row_of(b.labels, row);
        bool padding = false;
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          EXPECT_EQ(tokens[i] < 0, targets[i] < 0);
          EXPECT_TRUE(!padding || tokens[i] < 0) << "padding only at the end";
          padding = tokens[i] < 0;
          if (padding) continue;
          pairs[b.sequence_ids[std::size_t(row)]].emplace_back(tokens[i], targets[i]);
          ++labels;
        }
      }
    }
    EXPECT_EQ(labels, held_out.labels());
    return pairs;
  }
};

TEST_F(HeldOutTest, WindowsScoreEveryTokenButTheFirstOnce) {
  add_shard(random_documents(20, 15, kVocabulary, 1));
  add_shard(random_documents(7, 30, kVocabulary, 2));
  const auto stream = concatenated(documents_);
  for (const std::int64_t length : {1, 7, 64, 100000}) {
    const HeldOut held_out = HeldOut::windows(files_, length, kVocabulary);
    EXPECT_EQ(held_out.labels(), std::int64_t(stream.size()) - 1);
    std::size_t at = 0;
    for (const auto& [sequence, pairs] : pairs_of(held_out, 3))
      for (const auto& [token, label] : pairs) {
        EXPECT_EQ(token, stream[at]);
        EXPECT_EQ(label, stream[++at]);
      }
    EXPECT_EQ(at + 1, stream.size());
  }
}

TEST_F(HeldOutTest, WindowsWithMasksSayWhereDocumentsBeginAndScoreNoneOfTheirFirstIds) {
  add_shard({{1, 5, 6}, {7}, {8, 9}});
  const HeldOut held_out = HeldOut::windows(files_, 4, kVocabulary, true);
  EXPECT_EQ(held_out.labels(), 3);
  const Batch batch = held_out.load(0, 2);
  using Row = std::vector<std::int32_t>;
  EXPECT_EQ(row_of(batch.labels, 0), (Row{5, 6, -1, -1}));
  EXPECT_EQ(row_of(batch.document_starts, 0), (Row{0, 0, 0, 3}));
  EXPECT_EQ(row_of(batch.labels, 1), (Row{9, -1, -1, -1}));
  EXPECT_FALSE(HeldOut::windows(files_, 4, kVocabulary).load(0, 1).document_starts.defined());
}

TEST_F(HeldOutTest, DocumentsScoreEveryIdAfterTheirFirstOnce) {
  add_shard({{1, 5, 6, 7}, {9}, {1, 2}});
  add_shard(random_documents(30, 25, kVocabulary, 3));
  for (const std::int64_t length : {1, 5, 8, 100}) {
    const HeldOut held_out = HeldOut::documents(files_, length, kVocabulary);
    const auto pairs = pairs_of(held_out, 4);
    for (std::size_t d = 0; d < documents_.size(); ++d) {
      const Document& document = documents_[d];
      std::vector<std::pair<std::int32_t, std::int32_t>> expected;
      for (std::size_t i = 0; i + 1 < document.size(); ++i)
        expected.emplace_back(document[i], document[i + 1]);
      const auto found = pairs.find(std::int64_t(d));
      EXPECT_EQ(found == pairs.end(), expected.empty());
      if (found == pairs.end()) continue;
      EXPECT_EQ(found->second, expected) << "document " << d;
    }
  }
}

TEST_F(HeldOutTest, BosIsPutBeforeDocumentsThatLackIt) {
  add_shard({{1, 5, 6}, {9}, {7, 8, 1}, {1}});
  for (const std::int64_t length : {1, 2, 9}) {
    const auto pairs = pairs_of(HeldOut::documents(files_, length, kVocabulary, 1), 3);
    using Pairs = std::vector<std::pair<std::int32_t, std::int32_t>>;
    EXPECT_EQ(pairs.at(0), (Pairs{{1, 5}, {5, 6}}));
    EXPECT_EQ(pairs.at(1), (Pairs{{1, 9}}));
    EXPECT_EQ(pairs.at(2), (Pairs{{1, 7}, {7, 8}, {8, 1}}));
    EXPECT_EQ(pairs.count(3), 0u);
  }
}

TEST_F(HeldOutTest, RowsAreOnlyAsWideAsTheLongestDocumentOfTheBatch) {
  add_shard({{1, 5, 6, 7}, {1, 2}, {1, 2, 3}});
  const HeldOut held_out = HeldOut::documents(files_, 100, kVocabulary);
  EXPECT_EQ(held_out.load(0, 3).tokens.shape(), (Shape{3, 3}));
  EXPECT_EQ(held_out.load(1, 1).tokens.shape(), (Shape{1, 1}));
  EXPECT_THROW(held_out.load(2, 2), Error);
}

TEST_F(HeldOutTest, RefusesShardsWithNothingToScore) {
  add_shard({{4}});
  EXPECT_THAT(input_error_of([&] { HeldOut::windows(files_, 8, kVocabulary); }),
              HasSubstr("nothing to score"));
  EXPECT_THAT(input_error_of([&] { HeldOut::documents(files_, 8, kVocabulary); }),
              HasSubstr("nothing to score"));
  EXPECT_NO_THROW(HeldOut::documents(files_, 8, kVocabulary, 1));
  EXPECT_THROW(HeldOut::windows(files_, 8, kVocabulary - 1), InputError);
}

}  // namespace
}  // namespace moe
