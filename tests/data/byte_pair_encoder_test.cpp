// SPDX-License-Identifier: Apache-2.0
#include "data/byte_pair_encoder.h"

#include <gtest/gtest.h>

#include <map>

#include "core/rng.h"

namespace moe {
namespace {

/// Letters a to e have ids 0 to 4; each further token is made of two random earlier ones.
struct RandomMerges {
  std::vector<std::string> texts = {"a", "b", "c", "d", "e"};
  std::map<std::pair<std::int32_t, std::int32_t>, Merge> merges;

  RandomMerges(std::uint64_t seed, std::size_t tokens, std::int32_t ranks) {
    for (std::uint64_t draw = 0; texts.size() < tokens; draw += 3) {
      const Philox random(seed, RandomPurpose::test, {5});
      const auto left = std::int32_t(random.below(draw, texts.size()));
      const auto right = std::int32_t(random.below(draw + 1, texts.size()));
      const std::string text = texts[std::size_t(left)] + texts[std::size_t(right)];
      if (text.size() > 8 || std::find(texts.begin(), texts.end(), text) != texts.end()) continue;
      const auto rank = std::int32_t(random.below(draw + 2, std::uint64_t(ranks)));
      merges[{left, right}] = {left, right, rank, std::int32_t(texts.size())};
      texts.push_back(text);
    }
  }

  BytePairVocabulary vocabulary(bool characters) const {
    BytePairVocabulary v;
    v.bytes.fill(0);
    for (std::int32_t i = 0; i < 5; ++i) {
      if (characters) v.characters[char32_t('a' + i)] = i;
      if (!characters) v.bytes[std::size_t('a' + i)] = i;
    }
    if (characters) {
      v.alphabet = BytePairVocabulary::Alphabet::characters;
      v.bytes.fill(std::int32_t(texts.size()));  // an id that no merge has
    }
    for (const auto& [pair, merge] : merges) v.merges.push_back(merge);
    v.texts = texts;
    return v;
  }

  /// By definition: the merge of lowest rank, the leftmost of equals, until there is none.
  std::vector<std::int32_t> encode(const std::string& word) const {
    std::vector<std::int32_t> ids;
    for (const char c : word) ids.push_back(c - 'a');
    while (true) {
      const Merge* best = nullptr;
      std::size_t place = 0;
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
        const auto found = merges.find({ids[i], ids[i + 1]});
        if (found != merges.end() && (best == nullptr || found->second.rank < best->rank)) {
          best = &found->second;
          place = i;
        }
      }
      if (best == nullptr) return ids;
      ids[place] = best->result;
      ids.erase(ids.begin() + std::ptrdiff_t(place) + 1);
    }
  }
};

std::string random_word(std::uint64_t seed, std::uint64_t longest) {
  const Philox random(seed, RandomPurpose::test, {6});
  std::string word;
  for (std::uint64_t length = 1 + random.below(0, longest); word.size() < length;)
    word += char('a' + random.below(1 + word.size(), 5));
  return word;
}

TEST(BytePairEncoder, MergesTheLowestRankFirstInShortAndLongWords) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    // Few ranks: many merges of the same rank, which go from left to right.
    const RandomMerges random(seed, 60, seed % 2 ? 1000 : 4);
    const BytePairEncoder encoder(random.vocabulary(false));
    BytePairEncoder::Scratch scratch;
    for (std::uint64_t i = 0; i < 60; ++i) {
      const std::string word = random_word(seed * 1000 + i, i % 3 == 0 ? 300 : 12);
      std::vector<std::int32_t> ids;
      encoder.encode(word, scratch, ids);
      ASSERT_EQ(ids, random.encode(word)) << word;
    }
  }
}

TEST(BytePairEncoder, CutsWhereNoMergeCanCross) {
  std::size_t cuts = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const RandomMerges random(seed, 14, 1000);
    const BytePairEncoder encoder(random.vocabulary(true));
    BytePairEncoder::Scratch scratch;
    for (std::uint64_t i = 0; i < 40; ++i) {
      const std::string text = random_word(seed * 1000 + i, 60);
      std::vector<std::int32_t> ids;
      for (std::string_view rest = text; !rest.empty();) {
        const std::size_t cut = encoder.first_cut(rest);
        encoder.encode(rest.substr(0, cut), scratch, ids);
        rest.remove_prefix(cut);
        cuts += !rest.empty();
      }
      ASSERT_EQ(ids, random.encode(text)) << text;
    }
  }
  EXPECT_GT(cuts, 1000u);
}

TEST(BytePairEncoder, DoesNotCutWhatMayBeLookedUpOrFused) {
  const RandomMerges random(1, 6, 10);
  BytePairVocabulary whole_words = random.vocabulary(true);
  whole_words.words["abcde"] = 0;
  EXPECT_EQ(BytePairEncoder(whole_words).first_cut("eeddccbbaa"), 10u);
  BytePairVocabulary unknown = random.vocabulary(true);
  unknown.bytes.fill(-1);
  EXPECT_EQ(BytePairEncoder(unknown).first_cut("eeddccbbaa"), 10u);
  EXPECT_LT(BytePairEncoder(random.vocabulary(true)).first_cut("eeddccbbaa"), 10u);
}

}  // namespace
}  // namespace moe
