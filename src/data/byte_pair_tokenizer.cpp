// SPDX-License-Identifier: Apache-2.0
#include "data/byte_pair_tokenizer.h"

#include <algorithm>

#include "data/word_cache.h"

namespace moe {
namespace {

/// Calls `between(text, begins at 0)` and `token(id)` for the parts of `text`, in order.
template <class Between, class OnToken>
void part(const AddedTokens& added, std::string_view text, Between&& between, OnToken&& token) {
  std::size_t done = 0;
  while (!added.empty()) {
    const AddedTokens::Match match = added.find(text, done);
    if (match.begin == text.npos) break;
    if (match.begin > done) between(text.substr(done, match.begin - done), done == 0);
    token(match.id);
    done = match.begin + match.size;
  }
  if (done < text.size()) between(text.substr(done), done == 0);
}

}  // namespace

void AddedTokens::add(std::string text, std::int32_t id) {
  empty_ = false;
  auto& list = by_first_[static_cast<unsigned char>(text.at(0))];
  const auto place = std::find_if(list.begin(), list.end(), [&](const auto& other) {
    return other.first.size() < text.size();
  });
  list.emplace(place, std::move(text), id);
}

AddedTokens::Match AddedTokens::find(std::string_view text, std::size_t from) const {
  for (std::size_t at = from; at < text.size(); ++at)
    for (const auto& [token, id] : by_first_[static_cast<unsigned char>(text[at])])
      if (text.substr(at).starts_with(token)) return {at, token.size(), id};
  return {};
}

struct BytePairTokenizer::State {
  std::string valid;
  TextNormalizer::Scratch normalizer, preparation;
  Pretokenizer::Scratch pretokenizer;
  BytePairEncoder::Scratch encoder;
  WordCache cache;
};

BytePairTokenizer::BytePairTokenizer(BytePairParts parts)
    : added_(std::move(parts.added)),
      normalizer_(std::move(parts.normalizer)),
      added_normalized_(std::move(parts.added_normalized)),
      preparation_(std::move(parts.preparation)),
      pretokenizer_(std::move(parts.pretokenizer)),
      encoder_(std::move(parts.vocabulary)) {}
BytePairTokenizer::~BytePairTokenizer() = default;

void BytePairTokenizer::encode(std::string_view text, std::vector<std::int32_t>& ids) const {
  std::unique_ptr<State> state;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      state = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (!state) state = std::make_unique<State>();
  if (valid_utf8_prefix(text) != text.size()) {
    state->valid.clear();
    append_utf8(text, Replace::each_byte, false, state->valid);
    text = state->valid;
  }
  part(
      added_, text,
      [&](std::string_view between, bool first) {
        encode_normalized(normalizer_.apply(between, first, state->normalizer), first, *state, ids);
      },
      [&](std::int32_t id) { ids.push_back(id); });
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(state));
}

void BytePairTokenizer::encode_normalized(std::string_view text, bool at_beginning, State& state,
                                          std::vector<std::int32_t>& ids) const {
  part(
      added_normalized_, text,
      [&](std::string_view between, bool first) {
        encode_words(preparation_.apply(between, at_beginning && first, state.preparation), state,
                     ids);
      },
      [&](std::int32_t id) { ids.push_back(id); });
}

void BytePairTokenizer::encode_words(std::string_view text, State& state,
                                     std::vector<std::int32_t>& ids) const {
  for (std::string_view rest : pretokenizer_.words(text, state.pretokenizer)) {
    while (!rest.empty()) {
      const std::string_view word = rest.substr(0, encoder_.first_cut(rest));
      rest.remove_prefix(word.size());
      if (state.cache.append(word, ids)) continue;
      const std::size_t before = ids.size();
      encoder_.encode(word, state.encoder, ids);
      state.cache.keep(word, std::span(ids).subspan(before));
    }
  }
}

}  // namespace moe
