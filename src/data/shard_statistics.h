// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace moe {

/// What the shards of one domain hold.
struct DomainStatistics {
  std::string domain;
  std::int64_t shards = 0, documents = 0, tokens = 0;
  std::int64_t learned = 0;  // tokens that are learned
  std::int64_t file_bytes = 0;
  std::optional<std::int64_t> text_bytes;   // of the text that the ids stand for, with a tokenizer
  std::int64_t with_bos = 0, with_eos = 0;  // documents that begin with BOS, end with EOS
  std::int64_t duplicates = 0;              // documents whose ids an earlier one of the domain has
  std::map<std::int64_t, std::int64_t> lengths;  // tokens of a document: how many have so many

  /// The smallest length that at least the share `q` of the documents does not exceed.
  std::int64_t quantile(double q) const;
  /// Documents by length: from 2^k tokens to below 2^(k+1), by 2^k.
  std::map<std::int64_t, std::int64_t> histogram() const;
};

/// Statistics of each domain, in the order in which the shards first have it. `tokenizer`: counts
/// the bytes of text, too. Memory: 8 bytes a document. Throws InputError, also for a tokenizer that
/// is not the shards'.
std::vector<DomainStatistics> shard_statistics(
    const std::vector<std::filesystem::path>& shards, const Tokenizer* tokenizer, int threads,
    const std::function<void(std::int64_t tokens)>& progress = {});

}  // namespace moe
