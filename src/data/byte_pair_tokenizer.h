// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/byte_pair_encoder.h"
#include "data/pretokenizer.h"
#include "data/text_normalizer.h"
#include "data/tokenizer_model.h"

namespace moe {

/// Texts that are one id each wherever they stand: the leftmost first, of those the longest.
class AddedTokens {
 public:
  void add(std::string text, std::int32_t id);
  bool empty() const { return empty_; }

  struct Match {
    std::size_t begin = std::string_view::npos;
    std::size_t size = 0;
    std::int32_t id = -1;
  };
  /// The first one at or behind `from`; begin npos: none.
  Match find(std::string_view text, std::size_t from) const;

 private:
  bool empty_ = true;
  // By the first byte, the longest first.
  std::array<std::vector<std::pair<std::string, std::int32_t>>, 256> by_first_;
};

/// What byte-pair tokenizers are made of, in the order in which a text passes through it.
struct BytePairParts {
  AddedTokens added;             // in the text as it is
  TextNormalizer normalizer;     // of what is between them
  AddedTokens added_normalized;  // in the result
  TextNormalizer preparation;    // of what is between those
  Pretokenizer pretokenizer;
  BytePairVocabulary vocabulary;
};

class BytePairTokenizer : public TextEncoder {
 public:
  explicit BytePairTokenizer(BytePairParts parts);
  ~BytePairTokenizer() override;

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override;

 private:
  struct State;
  void encode_normalized(std::string_view text, bool at_beginning, State& state,
                         std::vector<std::int32_t>& ids) const;
  void encode_words(std::string_view text, State& state, std::vector<std::int32_t>& ids) const;

  AddedTokens added_;
  TextNormalizer normalizer_;
  AddedTokens added_normalized_;
  TextNormalizer preparation_;
  Pretokenizer pretokenizer_;
  BytePairEncoder encoder_;
  // Scratch memory and the words seen lately: one for each thread that is at work.
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<State>> idle_;
};

}  // namespace moe
