// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace moe {

/// Two neighbouring symbols that become one. Lower ranks go first.
struct Merge {
  std::int32_t left;
  std::int32_t right;
  std::int32_t rank;
  std::int32_t result;
};

/// What a byte-pair encoder knows: symbols are token ids.
struct BytePairVocabulary {
  enum class Alphabet { bytes, characters };
  /// What a word is before anything is merged.
  Alphabet alphabet = Alphabet::bytes;
  /// The id of each byte: of the alphabet, or what a character without an id is spelt in. -1: none.
  std::array<std::int32_t, 256> bytes;
  /// The ids of characters, where they are the alphabet.
  std::unordered_map<char32_t, std::int32_t> characters;
  std::vector<Merge> merges;
  /// For what has no id of its own; -1: leaves nothing. Neighbours share one if `fuse_unknown`.
  std::int32_t unknown = -1;
  bool fuse_unknown = false;
  /// Ids of words that are looked up before anything is merged; often empty.
  std::unordered_map<std::string, std::int32_t> words;
  /// What each id stands for. Only first_cut() needs it, and only for characters.
  std::vector<std::string> texts;
};

/// Turns a word into token ids: its bytes or characters, then again and again the merge of lowest
/// rank, the leftmost of equals, until none is left. Safe from many threads, each with a Scratch of
/// its own.
class BytePairEncoder {
 public:
  struct Candidate {
    std::uint64_t order;  // rank, then place
    std::int32_t left, right, result;
  };
  struct Symbol {
    std::int32_t id;
    std::int32_t rank;    // of the merge with the next symbol
    std::int32_t result;  // of that merge
    std::int32_t previous, next;
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<Candidate> candidates;
  };

  explicit BytePairEncoder(BytePairVocabulary vocabulary);

  /// Appends the ids of `word`, valid UTF-8.
  void encode(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& ids) const;

  /// Where `text` may be cut first without changing its ids: the end of its longest beginning whose
  /// characters may be merged with each other. text.size() where there is no such place. That
  /// c and d may be cut apart is known from the vocabulary: no merge joins them.
  std::size_t first_cut(std::string_view text) const;

 private:
  struct Slot {
    std::uint64_t pair = kEmpty;
    std::int32_t rank = 0;
    std::int32_t result = 0;
  };
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};

  const Slot* find(std::int32_t left, std::int32_t right) const;
  std::size_t slot_of(std::uint64_t pair) const;
  void append_symbols(std::string_view word, std::vector<Symbol>& symbols) const;
  void merge_short(std::vector<Symbol>& symbols) const;
  void merge_long(Scratch& scratch) const;
  void note_joints();

  BytePairVocabulary vocabulary_;
  std::vector<Slot> slots_;  // a hash table of pairs, at most half full
  int shift_ = 0;
  bool cuts_ = false;
  std::vector<bool> joints_;  // [class, class] of neighbouring characters: some merge joins such
};

}  // namespace moe
