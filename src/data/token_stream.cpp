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

template <class Visit>
void TokenStream::for_each_file(std::int64_t first, std::int64_t count, Visit&& visit) const {
  MOE_CHECK(first >= 0 && count <= tokens() - first, "tokens [", first, ", ", first + count,
            ") of ", tokens());
  for (std::size_t f = file_of(first); count > 0; ++f) {
    const std::int64_t within = first - begins_[f];
    const std::int64_t n = std::min(count, files_[f].tokens() - within);
    visit(files_[f], within, n);
    first += n;
    count -= n;
  }
}

void TokenStream::read(std::int64_t first, std::span<std::int32_t> out) const {
  for_each_file(first, std::int64_t(out.size()),
                [&](const TokenFile& file, std::int64_t within, std::int64_t n) {
                  file.read(within, out.first(std::size_t(n)));
                  out = out.subspan(std::size_t(n));
                });
}

std::int64_t TokenStream::count_learned(std::int64_t first, std::int64_t count) const {
  std::int64_t learned = 0;
  for_each_file(first, count, [&](const TokenFile& file, std::int64_t within, std::int64_t n) {
    learned += file.count_learned(within, n);
  });
  return learned;
}

void TokenStream::keep_learned(std::int64_t first, std::span<std::int32_t> ids) const {
  std::vector<std::uint8_t> flags;
  for_each_file(first, std::int64_t(ids.size()),
                [&](const TokenFile& file, std::int64_t within, std::int64_t n) {
                  const std::span part = ids.first(std::size_t(n));
                  ids = ids.subspan(std::size_t(n));
                  if (!file.info().masked) return;
                  flags.resize(std::size_t(n));
                  file.read_learned(within, flags);
                  for (std::size_t i = 0; i < part.size(); ++i)
                    if (flags[i] == 0) part[i] = -1;
                });
}

void TokenStream::read_inputs(std::int64_t first, bool last_label, std::span<std::int32_t> tokens,
                              std::span<std::int32_t> labels) const {
  MOE_CHECK(!tokens.empty() && tokens.size() == labels.size(), tokens.size(), " inputs, ",
            labels.size(), " labels");
  read(first, tokens);
  std::copy(tokens.begin() + 1, tokens.end(), labels.begin());
  if (last_label)
    read(first + std::int64_t(tokens.size()), labels.last(1));
  else
    labels.back() = -1;
  keep_learned(first + 1, last_label ? labels : labels.first(labels.size() - 1));
}

}  // namespace moe
