// SPDX-License-Identifier: Apache-2.0
#include "data/shard_statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"
#include "data/checksum.h"
#include "data/ordered_pipeline.h"
#include "data/token_file.h"

namespace moe {
namespace {

/// Documents that one thread looks at together.
constexpr std::int64_t kAtOnce = 4096;

struct Piece {
  const TokenFile* file = nullptr;
  std::size_t domain = 0;
  std::int64_t first = 0, end = 0;  // documents
};

struct Counted {
  std::size_t domain = 0;
  std::vector<std::int64_t> lengths;
  std::vector<std::uint64_t> hashes;
  std::int64_t with_bos = 0, with_eos = 0, text_bytes = 0;
};

Counted count(const Piece& piece, const Tokenizer* tokenizer) {
  Counted result{.domain = piece.domain, .lengths = {}, .hashes = {}};
  const TokenFileInfo& info = piece.file->info();
  std::vector<std::int32_t> ids;
  for (std::int64_t i = piece.first; i < piece.end; ++i) {
    const TokenFile::Range range = piece.file->document(i);
    ids.resize(std::size_t(range.count));
    piece.file->read(range.first, ids);
    result.lengths.push_back(range.count);
    result.hashes.push_back(checksum(ids.data(), ids.size() * sizeof ids[0]));
    result.with_bos += info.bos_id >= 0 && ids.front() == info.bos_id;
    result.with_eos += info.eos_id >= 0 && ids.back() == info.eos_id;
    if (tokenizer != nullptr) result.text_bytes += std::int64_t(tokenizer->decode(ids).size());
  }
  return result;
}

}  // namespace

std::int64_t DomainStatistics::quantile(double q) const {
  const auto wanted = std::max<std::int64_t>(1, std::llround(std::ceil(q * double(documents))));
  std::int64_t seen = 0;
  for (const auto& [length, count] : lengths)
    if ((seen += count) >= wanted) return length;
  return lengths.empty() ? 0 : lengths.rbegin()->first;
}

std::map<std::int64_t, std::int64_t> DomainStatistics::histogram() const {
  std::map<std::int64_t, std::int64_t> result;
  for (const auto& [length, count] : lengths)
    result[std::int64_t(std::bit_floor(std::uint64_t(length)))] += count;
  return result;
}

std::vector<DomainStatistics> shard_statistics(
    const std::vector<std::filesystem::path>& shards, const Tokenizer* tokenizer, int threads,
    const std::function<void(std::int64_t tokens)>& progress) {
  std::vector<TokenFile> files;
  std::vector<DomainStatistics> domains;
  std::vector<std::size_t> domain_of;
  for (const auto& shard : shards) {
    const TokenFile& file = files.emplace_back(shard);
    MOE_REQUIRE(tokenizer == nullptr || file.info().tokenizer_hash.empty() ||
                    tokenizer->hash() == file.info().tokenizer_hash,
                shard.string(), ": made by another tokenizer (", file.info().tokenizer_hash,
                ") than the one given (", tokenizer ? tokenizer->hash() : "", ")");
    auto at = std::find_if(domains.begin(), domains.end(),
                           [&](const auto& d) { return d.domain == file.info().domain; });
    if (at == domains.end()) {
      at = domains.emplace(domains.end());
      at->domain = file.info().domain;
      if (tokenizer != nullptr) at->text_bytes = 0;
    }
    domain_of.push_back(std::size_t(at - domains.begin()));
    ++at->shards;
    at->documents += file.documents();
    at->tokens += file.tokens();
    at->learned += file.learned_tokens();
    at->file_bytes += std::int64_t(std::filesystem::file_size(shard));
  }

  std::vector<std::vector<std::uint64_t>> hashes(domains.size());
  std::size_t file = 0;
  std::int64_t next = 0, tokens = 0;
  ordered_pipeline<Piece, Counted>(
      pipeline_threads(threads),
      [&](Piece& piece) {
        while (file < files.size() && next == files[file].documents()) ++file, next = 0;
        if (file == files.size()) return false;
        piece = {&files[file], domain_of[file], next,
                 std::min(next + kAtOnce, files[file].documents())};
        next = piece.end;
        return true;
      },
      [&](Piece&& piece) { return count(piece, tokenizer); },
      [&](Counted&& counted) {
        DomainStatistics& d = domains[counted.domain];
        for (const std::int64_t length : counted.lengths) {
          ++d.lengths[length];
          tokens += length;
        }
        auto& all = hashes[counted.domain];
        all.insert(all.end(), counted.hashes.begin(), counted.hashes.end());
        d.with_bos += counted.with_bos;
        d.with_eos += counted.with_eos;
        if (d.text_bytes) *d.text_bytes += counted.text_bytes;
        if (progress) progress(tokens);
      });
  for (std::size_t i = 0; i < domains.size(); ++i) {
    std::sort(hashes[i].begin(), hashes[i].end());
    const auto distinct = std::unique(hashes[i].begin(), hashes[i].end()) - hashes[i].begin();
    domains[i].duplicates = domains[i].documents - distinct;
  }
  return domains;
}

}  // namespace moe
