// SPDX-License-Identifier: Apache-2.0
// Shards that say which tokens are learned, from the file to the labels of a batch.
#include <map>
#include <numeric>
#include <set>

#include "data/data_test_support.h"
#include "data/held_out.h"
#include "data/loader.h"
#include "data/sequences.h"
#include "data/shard_edit.h"
#include "data/shard_statistics.h"
#include "data/token_format.h"

namespace moe {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::int64_t sum(const std::vector<Mask>& masks) {
  std::int64_t total = 0;
  for (const Mask& mask : masks) total += std::accumulate(mask.begin(), mask.end(), 0);
  return total;
}

class LossMask : public ::testing::Test {
 protected:
  TestFolder folder_;
  const fs::path shard_ = folder_ / "a.h5";

  void flip(const fs::path& path, std::size_t at, char bits) {
    std::string bytes = read_bytes(path);
    bytes[at] = char(bytes[at] ^ bits);
    write_bytes(path, bytes);
  }
};

TEST_F(LossMask, GivesBackWhatWasWritten) {
  for (const std::int64_t vocabulary : {1000, 70000}) {
    const auto documents = random_documents(300, 50, vocabulary);
    const auto masks = random_masks(documents);
    write_masked_shard(shard_, documents, masks, vocabulary);
    const TokenFile file(shard_);
    EXPECT_TRUE(file.info().masked);
    EXPECT_EQ(read_documents(file), documents);
    EXPECT_EQ(read_masks(file), masks);
    EXPECT_EQ(file.learned_tokens(), sum(masks));
    EXPECT_EQ(file.count_learned(0, file.tokens()), sum(masks));
    EXPECT_NO_THROW(file.verify());
    const TokenFile later = TokenFile::opened_when_used(shard_);
    EXPECT_EQ(later.learned_tokens(), sum(masks));
    EXPECT_EQ(read_masks(later), masks);
  }
}

TEST_F(LossMask, OfMoreThanABlockIsKeptAndVerified) {
  std::vector<Document> documents = {{7}, Document(std::size_t(kTokenBlock) + 12345, 3), {8, 9}};
  const auto masks = random_masks(documents);
  write_masked_shard(shard_, documents, masks, 100);
  const TokenFile file(shard_);
  EXPECT_EQ(read_masks(file), masks);
  EXPECT_NO_THROW(file.verify());
  flip(shard_, std::size_t(read_manifest(shard_).learned->offset + kTokenBlock + 5), 1);
  const TokenFile damaged(shard_);
  EXPECT_THAT(input_error_of([&] { damaged.verify(); }),
              HasSubstr("wrong checksum of what is learned of tokens [1048576, "));
}

TEST_F(LossMask, TheFirstTokenOfADocumentIsNeverLearned) {
  write_masked_shard(shard_, {{5, 6}, {7}}, {{1, 1}, {1}}, 10);
  EXPECT_EQ(read_masks(TokenFile(shard_)), (std::vector<Mask>{{0, 1}, {0}}));
  EXPECT_NO_THROW(TokenFile(shard_).verify());
}

TEST_F(LossMask, ShardsWithoutOneLearnEverything) {
  write_shard(shard_, {{1, 2, 3}, {4}}, 10);
  const TokenFile file(shard_);
  EXPECT_FALSE(file.info().masked);
  EXPECT_EQ(read_masks(file), (std::vector<Mask>{{1, 1, 1}, {1}}));
  EXPECT_EQ(file.learned_tokens(), 4);
  EXPECT_THAT(read_bytes(manifest_path(shard_)), HasSubstr("\"format_version\": 1"));
}

TEST_F(LossMask, AFlippedByteOutsideOfTokensAndMaskIsRefusedWhenOpened) {
  const auto documents = random_documents(40, 20, 300);
  write_masked_shard(shard_, documents, random_masks(documents), 300);
  const TokenManifest m = read_manifest(shard_);
  const std::string good = read_bytes(shard_);
  const auto holds = [](std::int64_t begin, std::int64_t count, std::size_t at) {
    return std::int64_t(at) >= begin && std::int64_t(at) < begin + count;
  };
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = char(bad[at] ^ 1);
    write_bytes(shard_, bad);
    if (holds(m.token_offset, m.tokens * m.token_bytes, at) ||
        holds(m.learned->offset, m.tokens, at)) {
      const TokenFile file(shard_);
      ASSERT_THAT(input_error_of([&] { file.verify(); }),
                  AnyOf(HasSubstr("wrong checksum of tokens [0, "),
                        HasSubstr("wrong checksum of what is learned of tokens [0, ")))
          << at;
    } else {
      ASSERT_THAT(input_error_of([&] { TokenFile file(shard_); }),
                  HasSubstr("wrong checksum outside the token data"))
          << at;
    }
  }
}

TEST_F(LossMask, NoFlippedBitOfTheManifestIsBelieved) {
  const auto documents = random_documents(20, 20, 300);
  const auto masks = random_masks(documents);
  write_masked_shard(shard_, documents, masks, 300);
  const fs::path manifest = manifest_path(shard_);
  const std::string good = read_bytes(manifest);
  int refused = 0;
  for (std::size_t at = 0; at < good.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[at] = char(bad[at] ^ (1 << bit));
      write_bytes(manifest, bad);
      try {
        const TokenFile file(shard_);
        EXPECT_EQ(read_documents(file), documents) << at << " " << bit;
        EXPECT_EQ(read_masks(file), masks) << at << " " << bit;
        EXPECT_EQ(file.learned_tokens(), sum(masks)) << at << " " << bit;
      } catch (const InputError&) {
        ++refused;
      }
    }
  EXPECT_GT(refused, int(good.size()) * 4);
}

TEST_F(LossMask, AFlagThatIsNeitherIsNeverGivenOut) {
  write_masked_shard(shard_, {{1, 2, 3, 4}}, {{0, 1, 0, 1}}, 300);
  flip(shard_, std::size_t(read_manifest(shard_).learned->offset) + 2, 6);
  const TokenFile file(shard_);
  Mask flags(4);
  EXPECT_THAT(input_error_of([&] { file.read_learned(0, flags); }),
              HasSubstr("whether token 2 is learned is 6"));
  EXPECT_NO_THROW(file.read_learned(0, std::span(flags).first(2)));
}

TEST_F(LossMask, GoesWithItsDocumentsThroughMergingCuttingAndShuffling) {
  const auto a = random_documents(200, 30, 1000, 1), b = random_documents(100, 9, 1000, 2);
  write_masked_shard(folder_ / "a.h5", a, random_masks(a), 1000);
  write_shard(folder_ / "b.h5", b, 1000);
  std::multimap<Document, Mask> wanted;
  const auto masks = random_masks(a);
  for (std::size_t i = 0; i < a.size(); ++i) wanted.emplace(a[i], masks[i]);
  for (const Document& d : b) {
    Mask all(d.size(), 1);
    all[0] = 0;
    wanted.emplace(d, all);
  }
  ShardEdit edit;
  edit.inputs = {folder_ / "a.h5", folder_ / "b.h5"};
  edit.output = folder_ / "out.h5";
  for (const std::int64_t cut : {0, 37}) {
    edit.shard_documents = cut;
    edit.force = true;
    for (const auto& report : {merge_shards(edit), shuffle_shards(edit, 3)}) {
      std::multimap<Document, Mask> found;
      std::vector<fs::path> shards;
      for (const auto& shard : report.shards) shards.push_back(shard.path);
      for (const fs::path& shard : shards) {
        const TokenFile file(shard);
        file.verify();
        const auto documents = read_documents(file);
        const auto flags = read_masks(file);
        for (std::size_t i = 0; i < documents.size(); ++i) found.emplace(documents[i], flags[i]);
      }
      // Equal documents may have come in any order.
      EXPECT_EQ((std::multiset(found.begin(), found.end())),
                (std::multiset(wanted.begin(), wanted.end())));
      EXPECT_EQ(shard_statistics(shards, nullptr, 1)[0].learned,
                sum(masks) + std::int64_t(concatenated(b).size() - b.size()));
    }
  }
}

/// A masked shard between two without a mask, with documents of every length, some of which are
/// learned nowhere. Every id is its own place in the stream.
class MaskedSequences : public LossMask {
 protected:
  std::vector<fs::path> files_;
  std::vector<Document> documents_;
  std::vector<std::uint8_t> learned_, first_;  // of each token of the stream

  void SetUp() override {
    const Philox random(11, RandomPurpose::test);
    std::int32_t next = 0;
    for (int f = 0; f < 3; ++f) {
      std::vector<Document> documents;
      for (std::uint64_t i = 0; i < 25; ++i) {
        Document& d =
            documents.emplace_back(1 + random.below(std::uint64_t(f) * 100 + i, i < 5 ? 3 : 40));
        std::iota(d.begin(), d.end(), next);
        next += std::int32_t(d.size());
      }
      auto masks = random_masks(documents, std::uint64_t(f));
      masks[7].assign(masks[7].size(), 0);
      files_.push_back(folder_ / str(f, ".h5"));
      if (f == 1)
        write_masked_shard(files_.back(), documents, masks, 5000);
      else
        write_shard(files_.back(), documents, 5000);
      for (std::size_t d = 0; d < documents.size(); ++d)
        for (std::size_t i = 0; i < documents[d].size(); ++i) {
          learned_.push_back(f == 1 ? masks[d][i] : 1);
          first_.push_back(i == 0);
        }
      documents_.insert(documents_.end(), documents.begin(), documents.end());
    }
  }
};

TEST_F(MaskedSequences, LabelsAreTheNextTokenWhereItIsLearnedInEveryPacking) {
  for (const Packing packing : {Packing::concatenate, Packing::best_fit})
    for (const bool alone : {false, true})
      for (const std::int64_t length : {1, 2, 16, 33, 4000}) {
        const Sequences sequences(files_, length, 5000, {packing, alone});
        std::int64_t labels = 0;
        std::set<std::int32_t> seen;
        for (std::int64_t s = 0; s < sequences.count(); ++s) {
          Batch batch = sequences.empty_batch(1);
          sequences.fill(s, batch, 0);
          std::int64_t here = 0;
          for (std::int64_t c = 0; c < length; ++c) {
            const std::int32_t id = batch.tokens.data<std::int32_t>()[c];
            const std::int32_t label = batch.labels.data<std::int32_t>()[c];
            if (id < 0) {
              EXPECT_EQ(label, -1);
              continue;
            }
            EXPECT_TRUE(seen.insert(id).second);
            const auto next = std::size_t(id) + 1;
            const bool other_document = first_[next] != 0;
            const bool is_label =
                learned_[next] && !(other_document && (alone || packing == Packing::best_fit));
            EXPECT_EQ(label, is_label ? id + 1 : -1) << "length " << length;
            here += label >= 0;
          }
          EXPECT_EQ(sequences.size(s).labels, here);
          labels += here;
        }
        EXPECT_EQ(sequences.labels(), labels);
      }
}

TEST_F(MaskedSequences, HeldOutScoresLearnedTokensOnly) {
  for (const std::int64_t length : {1, 7, 64, 4000})
    for (const bool bos : {false, true}) {
      const auto data =
          HeldOut::documents(files_, length, 5000, bos ? std::optional(4999) : std::nullopt);
      std::map<std::int32_t, int> labels;
      for (std::int64_t s = 0; s < data.sequences(); ++s) {
        const Batch batch = data.load(s, 1);
        for (std::int64_t c = 0; c < batch.tokens.cols(); ++c) {
          const std::int32_t label = batch.labels.data<std::int32_t>()[c];
          if (label >= 0) ++labels[label];
        }
      }
      std::map<std::int32_t, int> wanted;
      for (std::size_t i = 0; i < learned_.size(); ++i)
        if (learned_[i] && (bos || !first_[i])) wanted[std::int32_t(i)] = 1;
      EXPECT_EQ(labels, wanted);
      EXPECT_EQ(data.labels(), std::int64_t(wanted.size()));
    }
  const auto windows = HeldOut::windows(files_, 16, 5000);
  const std::int64_t learned = std::count(learned_.begin(), learned_.end(), 1);
  EXPECT_EQ(windows.labels(), learned - 1);
}

TEST_F(MaskedSequences, APlanCountsTheLabelsOfItsBatch) {
  const Loader loader({{"d", files_, 1, 0}}, 16, 7, 5000, {Packing::best_fit, true});
  MixtureState state = loader.mixture().initial_state();
  for (std::int64_t step = 0; step < 5; ++step) {
    const StepPlan plan = loader.plan(step, 6, state);
    const Batch batch = loader.load(plan, 0, 6);
    const auto* labels = batch.labels.data<std::int32_t>();
    EXPECT_EQ(std::count_if(labels, labels + 6 * 16, [](std::int32_t l) { return l >= 0; }),
              plan.labels);
    state = plan.next;
  }
}

TEST_F(LossMask, AShardThatTeachesNothingIsRefused) {
  write_masked_shard(shard_, {{1, 2, 3}, {4, 5}}, {{0, 0, 0}, {0, 0}}, 10);
  EXPECT_THAT(input_error_of([&] {
                Sequences({shard_}, 4, 10, {Packing::best_fit, true});
              }),
              HasSubstr("nothing to score: no token that is learned"));
}

}  // namespace
}  // namespace moe
