// SPDX-License-Identifier: Apache-2.0
#include "data/byte_pair_encoder.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/error.h"
#include "data/utf8.h"

namespace moe {
namespace {

constexpr std::int32_t kNone = -1;
constexpr std::int32_t kNoMerge = std::numeric_limits<std::int32_t>::max();
/// Up to here looking at all pairs again and again is faster than keeping them in order.
constexpr std::size_t kShort = 40;
constexpr std::size_t kClasses = 256;

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return std::uint64_t(std::uint32_t(left)) << 32 | std::uint32_t(right);
}

/// ASCII has a class for each character, and so has the sign that stands for a space. The others
/// share what is left.
std::size_t class_at(const char* text) {
  const auto first = static_cast<unsigned char>(*text);
  if (first < 0x80) return first;
  const char32_t character = utf8_character(text);
  return character == 0x2581 ? 255 : 128 + character % 127;
}

std::size_t class_at_end(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && is_utf8_continuation(text[at])) --at;
  return class_at(text.data() + at);
}

/// The heap's first is the lowest order.
bool later(const BytePairEncoder::Candidate& a, const BytePairEncoder::Candidate& b) {
  return a.order > b.order;
}

}  // namespace

BytePairEncoder::BytePairEncoder(BytePairVocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)) {
  const std::size_t slots = std::bit_ceil(2 * vocabulary_.merges.size() + 2);
  shift_ = 64 - std::countr_zero(slots);
  slots_.resize(slots);
  for (const Merge& merge : vocabulary_.merges) {
    Slot& slot = slots_[slot_of(pair_of(merge.left, merge.right))];
    slot = {pair_of(merge.left, merge.right), merge.rank, merge.result};
  }
  note_joints();
  vocabulary_.merges = {};
  vocabulary_.texts = {};
}

void BytePairEncoder::note_joints() {
  // Unknown neighbours may share an id, and a word may be looked up as a whole: not to be cut.
  const auto& bytes = vocabulary_.bytes;
  if (vocabulary_.alphabet != BytePairVocabulary::Alphabet::characters ||
      !vocabulary_.words.empty() || std::find(bytes.begin(), bytes.end(), kNone) != bytes.end())
    return;
  joints_.resize(kClasses * kClasses);
  for (const Merge& merge : vocabulary_.merges) {
    const std::string& left = vocabulary_.texts[std::size_t(merge.left)];
    const std::string& right = vocabulary_.texts[std::size_t(merge.right)];
    const auto is_byte = [&](std::int32_t id) {
      return std::find(bytes.begin(), bytes.end(), id) != bytes.end();
    };
    if (is_byte(merge.left) || is_byte(merge.right)) return;  // joins what no text says
    joints_[class_at_end(left) * kClasses + class_at(right.data())] = true;
  }
  cuts_ = true;
}

std::size_t BytePairEncoder::first_cut(std::string_view text) const {
  if (!cuts_ || text.empty()) return text.size();
  std::size_t before = class_at(text.data());
  for (std::size_t at = utf8_length(text[0]); at < text.size(); at += utf8_length(text[at])) {
    const std::size_t here = class_at(text.data() + at);
    if (!joints_[before * kClasses + here]) return at;
    before = here;
  }
  return text.size();
}

std::size_t BytePairEncoder::slot_of(std::uint64_t pair) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = pair * 0x9e3779b97f4a7c15u >> shift_;
  while (slots_[at].pair != pair && slots_[at].pair != kEmpty) at = (at + 1) & mask;
  return at;
}

const BytePairEncoder::Slot* BytePairEncoder::find(std::int32_t left, std::int32_t right) const {
  const Slot& slot = slots_[slot_of(pair_of(left, right))];
  return slot.pair == kEmpty ? nullptr : &slot;
}

void BytePairEncoder::append_symbols(std::string_view word, std::vector<Symbol>& symbols) const {
  const auto append = [&](std::int32_t id) {
    symbols.push_back({id, kNoMerge, kNone, kNone, kNone});
  };
  const auto append_byte = [&](char byte) {
    append(vocabulary_.bytes[static_cast<unsigned char>(byte)]);
  };
  if (vocabulary_.alphabet == BytePairVocabulary::Alphabet::bytes) {
    for (const char byte : word) append_byte(byte);
  } else {
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t length = utf8_length(word[at]);
      const auto known = vocabulary_.characters.find(utf8_character(word.data() + at));
      if (known != vocabulary_.characters.end())
        append(known->second);
      else if (vocabulary_.bytes[0] != kNone)
        for (const char byte : word.substr(at, length)) append_byte(byte);
      else
        append(kNone);
      at += length;
    }
  }
  std::size_t kept = 0;
  for (const Symbol& symbol : symbols) {
    const std::int32_t id = symbol.id != kNone ? symbol.id : vocabulary_.unknown;
    const bool fused =
        symbol.id == kNone && vocabulary_.fuse_unknown && kept > 0 && symbols[kept - 1].id == id;
    if (id != kNone && !fused) symbols[kept++].id = id;
  }
  symbols.resize(kept);
}

void BytePairEncoder::encode(std::string_view word, Scratch& scratch,
                             std::vector<std::int32_t>& ids) const {
  if (!vocabulary_.words.empty()) {
    const auto whole = vocabulary_.words.find(std::string(word));
    if (whole != vocabulary_.words.end()) {
      ids.push_back(whole->second);
      return;
    }
  }
  MOE_REQUIRE(word.size() < std::size_t(kNoMerge), "a word of ", word.size(),
              " bytes is too long to be tokenized: 2 GiB at most");
  std::vector<Symbol>& symbols = scratch.symbols;
  symbols.clear();
  append_symbols(word, symbols);
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    Symbol& symbol = symbols[i];
    const Slot* merge = i + 1 < symbols.size() ? find(symbol.id, symbols[i + 1].id) : nullptr;
    symbol.rank = merge != nullptr ? merge->rank : kNoMerge;
    symbol.result = merge != nullptr ? merge->result : kNone;
    symbol.previous = std::int32_t(i) - 1;
    symbol.next = i + 1 < symbols.size() ? std::int32_t(i) + 1 : kNone;
  }
  if (symbols.size() <= kShort)
    merge_short(symbols);
  else
    merge_long(scratch);
  for (const Symbol& symbol : symbols)
    if (symbol.id != kNone) ids.push_back(symbol.id);
}

void BytePairEncoder::merge_short(std::vector<Symbol>& symbols) const {
  while (true) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < symbols.size(); ++i)
      if (symbols[i].rank < symbols[best].rank) best = i;
    if (symbols.empty() || symbols[best].rank == kNoMerge) return;
    symbols[best].id = symbols[best].result;
    symbols.erase(symbols.begin() + std::ptrdiff_t(best) + 1);
    for (std::size_t i = best > 0 ? best - 1 : 0; i <= best; ++i) {
      const Slot* merge = i + 1 < symbols.size() ? find(symbols[i].id, symbols[i + 1].id) : nullptr;
      symbols[i].rank = merge != nullptr ? merge->rank : kNoMerge;
      symbols[i].result = merge != nullptr ? merge->result : kNone;
    }
  }
}

void BytePairEncoder::merge_long(Scratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& heap = scratch.candidates;
  heap.clear();
  const auto candidate = [&](std::int32_t at) {
    const Symbol& s = symbols[std::size_t(at)];
    return Candidate{std::uint64_t(std::uint32_t(s.rank)) << 32 | std::uint32_t(at), s.id,
                     symbols[std::size_t(s.next)].id, s.result};
  };
  for (std::size_t i = 0; i < symbols.size(); ++i)
    if (symbols[i].rank != kNoMerge) heap.push_back(candidate(std::int32_t(i)));
  std::make_heap(heap.begin(), heap.end(), later);
  // A pair may be gone, or another one, when its turn comes.
  const auto consider = [&](std::int32_t at) {
    Symbol& s = symbols[std::size_t(at)];
    const Slot* merge = s.next != kNone ? find(s.id, symbols[std::size_t(s.next)].id) : nullptr;
    if (merge == nullptr) return;
    s.rank = merge->rank;
    s.result = merge->result;
    heap.push_back(candidate(at));
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    const Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    const auto at = std::int32_t(best.order & 0xffffffffu);
    Symbol& left = symbols[std::size_t(at)];
    if (left.id != best.left || left.next == kNone) continue;
    Symbol& right = symbols[std::size_t(left.next)];
    if (right.id != best.right) continue;
    left.id = best.result;
    left.next = right.next;
    right.id = kNone;
    if (left.next != kNone) symbols[std::size_t(left.next)].previous = at;
    if (left.previous != kNone) consider(left.previous);
    consider(at);
  }
}

}  // namespace moe
