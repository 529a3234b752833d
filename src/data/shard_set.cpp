// SPDX-License-Identifier: Apache-2.0
#include "data/shard_set.h"

#include <algorithm>

#include "core/error.h"

namespace moe {

ShardSet::ShardSet(const std::vector<std::filesystem::path>& shards, const std::string& domain) {
  MOE_REQUIRE(!shards.empty(), "no shards");
  for (const auto& shard : shards) {
    const TokenFile& file = files_.emplace_back(shard);
    first_documents_.push_back(documents() + file.documents());
    const TokenFileInfo &first = files_.front().info(), &info = file.info();
    const std::string other =
        str(shard.string(), ": not made as ", shards.front().string(), " is: ");
    MOE_REQUIRE(info.tokenizer_hash == first.tokenizer_hash &&
                    info.vocabulary_size == first.vocabulary_size,
                other, "another tokenizer (", info.tokenizer_hash, ", ", info.vocabulary_size,
                " ids; ", first.tokenizer_hash, ", ", first.vocabulary_size,
                "); bring them to one with moe-data retokenize");
    MOE_REQUIRE(info.bos_id == first.bos_id && info.eos_id == first.eos_id, other,
                "BOS or EOS around the documents of only one");
    MOE_REQUIRE(!domain.empty() || info.domain == first.domain, other, "domain ", info.domain,
                " and not ", first.domain, "; name what both shall be (--domain)");
  }
  info_ = files_.front().info();
  if (!domain.empty()) info_.domain = domain;
  info_.masked = std::any_of(files_.begin(), files_.end(),
                             [](const TokenFile& file) { return file.info().masked; });
}

std::int64_t ShardSet::tokens() const {
  std::int64_t total = 0;
  for (const TokenFile& file : files_) total += file.tokens();
  return total;
}

ShardSet::Place ShardSet::place(std::int64_t i) const {
  MOE_CHECK(i >= 0 && i < documents(), "document ", i, " of ", documents());
  const auto behind = std::upper_bound(first_documents_.begin(), first_documents_.end(), i);
  const auto file = std::size_t(behind - first_documents_.begin()) - 1;
  return {file, i - first_documents_[file]};
}

void ShardSet::read(std::int64_t i, std::vector<std::int32_t>& ids) const {
  const Place at = place(i);
  const TokenFile::Range range = files_[at.file].document(at.document);
  ids.resize(std::size_t(range.count));
  files_[at.file].read(range.first, ids);
}

void ShardSet::read_learned(std::int64_t i, std::vector<std::uint8_t>& learned) const {
  const Place at = place(i);
  const TokenFile::Range range = files_[at.file].document(at.document);
  learned.resize(std::size_t(range.count));
  files_[at.file].read_learned(range.first, learned);
}

void ShardSet::verify() const {
  for (const TokenFile& file : files_) file.verify();
}

}  // namespace moe
