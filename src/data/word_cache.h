// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace moe {

/// Ids of words seen lately, in 2 MiB: a word takes the place of another one with the same hash.
/// Long words, and those of many ids, are not kept. For one thread.
class WordCache {
 public:
  static constexpr std::size_t kLongest = 23;  // bytes
  static constexpr std::size_t kMostIds = 9;

  WordCache() : entries_(kEntries) {}

  /// Appends the ids of `word` if it knows them.
  bool append(std::string_view word, std::vector<std::int32_t>& ids) const {
    if (word.size() > kLongest) return false;
    const Key key = key_of(word);
    const Entry& entry = entries_[place_of(key)];
    if (entry.key != key) return false;
    ids.insert(ids.end(), entry.ids.begin(), entry.ids.begin() + entry.count);
    return true;
  }

  void keep(std::string_view word, std::span<const std::int32_t> ids) {
    if (word.size() > kLongest || ids.size() > kMostIds) return;
    const Key key = key_of(word);
    Entry& entry = entries_[place_of(key)];
    entry.key = key;
    entry.count = std::int32_t(ids.size());
    std::copy(ids.begin(), ids.end(), entry.ids.begin());
  }

 private:
  static constexpr std::size_t kEntries = std::size_t{1} << 15;

  using Key = std::array<std::uint64_t, 3>;  // the word, zeros, and its length in the last byte
  struct alignas(64) Entry {
    Key key{};  // of length 0: nothing is there
    std::int32_t count = 0;
    std::array<std::int32_t, kMostIds> ids;
  };

  static Key key_of(std::string_view word) {
    Key key{};
    std::memcpy(key.data(), word.data(), word.size());
    key[2] |= std::uint64_t(word.size()) << 56;
    return key;
  }
  static std::size_t place_of(const Key& key) {
    std::uint64_t hash = key[0] * 0x9e3779b97f4a7c15u;
    hash = (hash ^ hash >> 32 ^ key[1]) * 0xd6e8feb86659fd93u;
    hash = (hash ^ hash >> 32 ^ key[2]) * 0x9e3779b97f4a7c15u;
    return hash >> (64 - 15);
  }

  std::vector<Entry> entries_;
};

}  // namespace moe
