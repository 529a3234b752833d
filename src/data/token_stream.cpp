// SPDX-License-Identifier: Apache-2.0
#include "data/token_stream.h"

#include <algorithm>

#include "core/error.h"

namespace moe {

void require_same_tokenizer(const TokenFile& a, const TokenFile& b) {
  const std::string &hash_a = a.info().tokenizer_hash, &hash_b = b.info().tokenizer_hash;
  MOE_REQUIRE(hash_a.empty() || hash_b.empty() || hash_a == hash_b, b.path().string(),
              ": made by another tokenizer (", hash_b, ") than ", a.path().string(), " (", hash_a,
              "); build both with the same one");
}

TokenStream::TokenStream(const std::vector<std::filesystem::path>& files,
                         std::int64_t vocabulary_size) {
  MOE_REQUIRE(!files.empty(), "a domain without token shards");
  begins_.push_back(0);
  const TokenFile* named = nullptr;  // the first whose tokenizer is known
  files_.reserve(files.size());
  const bool paths_are_few = files.size() <= kCheckedAtStart;
  for (const auto& path : files) {
    const TokenFile& file =
        files_.emplace_back(paths_are_few ? TokenFile(path) : TokenFile::opened_when_used(path));
    MOE_REQUIRE(file.info().vocabulary_size <= vocabulary_size, path.string(), ": a vocabulary of ",
                file.info().vocabulary_size, ", the model has ", vocabulary_size,
                "; tokenize with the model's tokenizer");
    if (named != nullptr) require_same_tokenizer(*named, file);
    if (named == nullptr && !file.info().tokenizer_hash.empty()) named = &file;
    begins_.push_back(begins_.back() + file.tokens());
  }
}

std::int64_t TokenStream::documents() const {
  std::int64_t total = 0;
  for (const TokenFile& file : files_) total += file.documents();
  return total;
}

void TokenStream::for_each_document_part(
    std::int64_t first, std::int64_t count,
    const std::function<void(std::int64_t, std::int64_t, bool)>& visit) const {
  const std::int64_t end = first + count;
  for (std::size_t f = file_of(first); first < end; ++f) {
    const TokenFile& file = files_[f];
    for (std::int64_t d = file.document_at(first - begins_[f]); d < file.documents() && first < end;
         ++d) {
      const TokenFile::Range document = file.document(d);
      const std::int64_t document_end = begins_[f] + document.first + document.count;
      const std::int64_t part = std::min(document_end, end) - first;
      visit(first, part, first + part == document_end);
      first += part;
    }
  }
}

std::size_t TokenStream::file_of(std::int64_t token) const {
  return std::size_t(std::upper_bound(begins_.begin(), begins_.end(), token) - begins_.begin()) - 1;
}

void TokenStream::read(std::int64_t first, std::span<std::int32_t> out) const {
  MOE_CHECK(first >= 0 && std::int64_t(out.size()) <= tokens() - first, "tokens [", first, ", ",
            first + std::int64_t(out.size()), ") of ", tokens());
  for (std::size_t f = file_of(first); !out.empty(); ++f) {
    const std::int64_t within = first - begins_[f];
    const auto n =
        std::size_t(std::min<std::int64_t>(std::int64_t(out.size()), files_[f].tokens() - within));
    files_[f].read(within, out.first(n));
    first += std::int64_t(n);
    out = out.subspan(n);
  }
}

void TokenStream::fill_row(std::int64_t first, std::int64_t inputs, std::span<std::int32_t> tokens,
                           std::span<std::int32_t> labels) const {
  MOE_CHECK(inputs > 0 && inputs <= std::int64_t(tokens.size()) && tokens.size() == labels.size(),
            inputs, " inputs in a row of ", tokens.size());
  const auto n = std::size_t(inputs);
  read(first, tokens.first(n));
  std::copy(tokens.begin() + 1, tokens.begin() + inputs, labels.begin());
  read(first + inputs, labels.subspan(n - 1, 1));
  std::fill(tokens.begin() + inputs, tokens.end(), -1);
  std::fill(labels.begin() + inputs, labels.end(), -1);
}

}  // namespace moe
