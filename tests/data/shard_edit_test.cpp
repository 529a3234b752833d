// SPDX-License-Identifier: Apache-2.0
#include "data/shard_edit.h"

#include <algorithm>

#include "data/data_test_support.h"
#include "data/shard_set.h"
#include "data/token_format.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class ShardEdits : public ::testing::Test {
 protected:
  TestFolder folder_;
  std::vector<Document> a_ = random_documents(500, 30, 1000, 1);
  std::vector<Document> b_ = random_documents(301, 50, 1000, 2);
  std::vector<Document> all_ = a_;
  ShardEdit edit_;

  ShardEdits() {
    all_.insert(all_.end(), b_.begin(), b_.end());
    write_shard(folder_ / "a.h5", a_, 1000, "hash");
    write_shard(folder_ / "b.h5", b_, 1000, "hash");
    edit_.inputs = {folder_ / "a.h5", folder_ / "b.h5"};
    edit_.output = folder_ / "out.h5";
  }

  std::vector<Document> documents_of(const ShardEditReport& report) {
    std::vector<Document> all;
    for (const auto& shard : report.shards) {
      const TokenFile file(shard.path);
      file.verify();
      EXPECT_EQ(file.documents(), shard.documents);
      EXPECT_EQ(file.tokens(), shard.tokens);
      EXPECT_EQ(file.info(), TokenFile(folder_ / "a.h5").info());
      for (auto& d : read_documents(file)) all.push_back(std::move(d));
    }
    return all;
  }

  static std::vector<Document> sorted(std::vector<Document> documents) {
    std::sort(documents.begin(), documents.end());
    return documents;
  }
};

TEST_F(ShardEdits, MergingKeepsEveryDocumentInOrder) {
  std::int64_t heard = 0;
  const ShardEditReport report =
      merge_shards(edit_, [&](std::int64_t documents, std::int64_t) { heard = documents; });
  EXPECT_EQ(report.shards.size(), 1u);
  EXPECT_EQ(documents_of(report), all_);
  EXPECT_EQ(heard, 801);
  EXPECT_THAT(input_error_of([&] { merge_shards(edit_); }), HasSubstr("out.h5: exists"));
  edit_.force = true;
  edit_.inputs.push_back(edit_.output);
  EXPECT_THAT(input_error_of([&] { merge_shards(edit_); }), HasSubstr("input and output at once"));
}

TEST_F(ShardEdits, CuttingByDocumentsOrTokensKeepsEveryDocumentInOrder) {
  edit_.shard_documents = 200;
  ShardEditReport report = merge_shards(edit_);
  std::vector<std::int64_t> sizes;
  for (const auto& s : report.shards) sizes.push_back(s.documents);
  EXPECT_EQ(sizes, (std::vector<std::int64_t>{200, 200, 200, 200, 1}));
  EXPECT_EQ(documents_of(report), all_);
  edit_.shard_documents = 0;
  edit_.shard_tokens = 6000;
  EXPECT_THAT(input_error_of([&] { merge_shards(edit_); }), HasSubstr("out-00000.h5: exists"));
  edit_.force = true;
  report = merge_shards(edit_);
  EXPECT_EQ(documents_of(report), all_);
  for (std::size_t i = 0; i + 1 < report.shards.size(); ++i) {
    EXPECT_GE(report.shards[i].tokens, 6000);
    EXPECT_LT(report.shards[i].tokens, 6050);
  }
  EXPECT_EQ(fs::exists(folder_ / "out-00004.h5"), report.shards.size() > 4) << "of the older cut";
  edit_.shard_documents = 1;
  EXPECT_THAT(input_error_of([&] { merge_shards(edit_); }), HasSubstr("not both"));
}

TEST_F(ShardEdits, ShufflingMovesEveryDocumentToAPlaceThatTheSeedDecides) {
  const std::vector<Document> first = documents_of(shuffle_shards(edit_, 1));
  EXPECT_EQ(sorted(first), sorted(all_));
  std::size_t stayed = 0;
  for (std::size_t i = 0; i < all_.size(); ++i) stayed += first[i] == all_[i];
  EXPECT_LT(stayed, 20u);
  // A third of those of the second shard are among the first third, or so.
  const std::vector<Document> from_b = sorted(b_);
  const auto moved = std::count_if(first.begin(), first.begin() + 267, [&](const Document& d) {
    return std::binary_search(from_b.begin(), from_b.end(), d);
  });
  EXPECT_NEAR(double(moved), 100, 40);
  edit_.force = true;
  EXPECT_EQ(documents_of(shuffle_shards(edit_, 1)), first);
  EXPECT_NE(documents_of(shuffle_shards(edit_, 2)), first);
}

TEST_F(ShardEdits, ShardsThatDoNotBelongTogetherOrAreDamagedAreRefused) {
  const auto error = [&](const fs::path& other) {
    edit_.inputs = {folder_ / "a.h5", other};
    return input_error_of([&] { merge_shards(edit_); });
  };
  write_shard(folder_ / "c.h5", b_, 1000, "other");
  EXPECT_THAT(error(folder_ / "c.h5"), AllOf(HasSubstr("c.h5"), HasSubstr("retokenize")));
  write_shard(folder_ / "d.h5", b_, 1001, "hash");
  EXPECT_THAT(error(folder_ / "d.h5"), HasSubstr("another tokenizer"));
  write_shard(folder_ / "e.h5", b_, 1000, "hash", "code");
  EXPECT_THAT(error(folder_ / "e.h5"), AllOf(HasSubstr("domain code"), HasSubstr("--domain")));
  edit_.domain = "both";
  merge_shards(edit_);
  EXPECT_EQ(TokenFile(edit_.output).info().domain, "both");
  std::string bytes = read_bytes(folder_ / "b.h5");
  char& token = bytes[std::size_t(read_manifest(folder_ / "b.h5").token_offset)];
  token = char(token ^ 1);
  write_bytes(folder_ / "b.h5", bytes);
  edit_.output = folder_ / "out2.h5";
  EXPECT_THAT(error(folder_ / "b.h5"), HasSubstr("wrong checksum of tokens"));
  EXPECT_FALSE(fs::exists(edit_.output));
}

class SelectDocuments : public ShardEdits {
 protected:
  /// Document i of all has the loss i % 10, or none.
  void write_scores(const std::function<std::string(std::size_t, std::string)>& change = {}) {
    std::string text;
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const bool a = i < a_.size();
      const std::string loss = i == 5 ? "null" : str(i % 10, ".25");
      std::string line = str("{\"shard\":\"elsewhere/", a ? "a" : "b",
                             ".h5\",\"document\":", a ? i : i - a_.size(),
                             ",\"tokens\":", all_[i].size() - i % 2, ",\"loss\":", loss, "}\n");
      text += change ? change(i, line) : line;
    }
    write_bytes(folder_ / "scores.jsonl", text);
  }
  SelectReport select(const LossBounds& bounds) {
    edit_.force = true;
    return select_documents(edit_, folder_ / "scores.jsonl", bounds);
  }
  std::vector<Document> with(const std::function<bool(std::size_t)>& taken) {
    std::vector<Document> documents;
    for (std::size_t i = 0; i < all_.size(); ++i)
      if (i != 5 && taken(i)) documents.push_back(all_[i]);
    return documents;
  }
};

TEST_F(SelectDocuments, TakesThoseWithinTheBounds) {
  write_scores();
  SelectReport report = select({.min = 2.25, .max = 7.25, .keep_fraction = {}});
  EXPECT_EQ(documents_of(report.written), with([](auto i) { return i % 10 >= 2 && i % 10 <= 7; }));
  EXPECT_EQ(report.above, 160);
  EXPECT_EQ(report.below, 161);
  EXPECT_EQ(report.unscored, 1);
  report = select({.min = {}, .max = 7.24, .keep_fraction = {}});
  EXPECT_EQ(documents_of(report.written), with([](auto i) { return i % 10 <= 6; }));
  // 400 of 801: five losses of 81 or 80 documents each would be 401.
  report = select({.min = {}, .max = {}, .keep_fraction = 0.5});
  EXPECT_EQ(documents_of(report.written), with([](auto i) { return i % 10 <= 4 && i != 794; }));
  EXPECT_EQ(report.above, 400);
  EXPECT_THAT(input_error_of([&] { select({.min = 100.0, .max = {}, .keep_fraction = {}}); }),
              HasSubstr("no document is left"));
  EXPECT_THAT(input_error_of([&] { select({}); }), HasSubstr("--max-loss"));
  EXPECT_THAT(input_error_of([&] { select({.min = {}, .max = {}, .keep_fraction = 1.5}); }),
              HasSubstr("--keep-fraction 1.5"));
}

TEST_F(SelectDocuments, ScoresOfOtherShardsAreRefused) {
  const auto error = [&](const std::function<std::string(std::size_t, std::string)>& change) {
    write_scores(change);
    return input_error_of([&] { select({.min = {}, .max = 5.0, .keep_fraction = {}}); });
  };
  const auto replaced = [](std::string line, const std::string& from, const std::string& to) {
    return line.replace(line.find(from), from.size(), to);
  };
  EXPECT_THAT(error([](auto i, auto line) { return i == 800 ? "" : line; }),
              HasSubstr("800 scores of 801 documents"));
  EXPECT_THAT(error([](auto, auto line) { return line + line; }),
              AllOf(HasSubstr("scores.jsonl:2"), HasSubstr("document 1 is expected")));
  EXPECT_THAT(error([](auto i, auto line) { return i == 800 ? line + line : line; }),
              HasSubstr("more scores than the shards have"));
  EXPECT_THAT(
      error([&](auto i, auto line) { return i == 7 ? replaced(line, "a.h5", "c.h5") : line; }),
      AllOf(HasSubstr("scores.jsonl:8"), HasSubstr("c.h5")));
  EXPECT_THAT(error([&](auto i, auto line) {
                return i == 7 ? replaced(line, "tokens\":", "tokens\":9") : line;
              }),
              HasSubstr("tokens were scored"));
  EXPECT_THAT(error([](auto i, auto line) { return i == 7 ? "[1]\n" : line; }),
              HasSubstr("not a score"));
  EXPECT_THAT(error([](auto i, auto line) { return i == 7 ? "{\n" : line; }),
              HasSubstr("not a score"));
  EXPECT_THAT(error([&](auto i, auto line) {
                return i == 7 ? replaced(line, "loss\":7", "loss\":-7") : line;
              }),
              HasSubstr("a loss of -7"));
}

}  // namespace
}  // namespace moe
