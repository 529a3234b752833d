// SPDX-License-Identifier: Apache-2.0
#include "data/loader.h"

#include "core/error.h"

namespace moe {
namespace {

std::vector<TokenStream> open_streams(const std::vector<DomainSource>& sources,
                                      std::int64_t vocabulary_size) {
  std::vector<TokenStream> streams;
  streams.reserve(sources.size());
  for (const DomainSource& source : sources) {
    MOE_REQUIRE(!source.files.empty(), "domain '", source.name, "' has no token shards");
    streams.emplace_back(source.files, vocabulary_size);
  }
  const TokenFile* named = nullptr;
  for (const TokenStream& stream : streams)
    for (const TokenFile& file : stream.files()) {
      if (file.info().tokenizer_hash.empty()) continue;
      if (named != nullptr) require_same_tokenizer(*named, file);
      named = &file;
    }
  return streams;
}

std::vector<DomainSize> sizes_of(const std::vector<DomainSource>& sources,
                                 const std::vector<TokenStream>& streams) {
  std::vector<DomainSize> sizes;
  for (std::size_t d = 0; d < sources.size(); ++d)
    sizes.push_back({sources[d].name, sources[d].weight, streams[d].tokens()});
  return sizes;
}

}  // namespace

Loader::Loader(const std::vector<DomainSource>& sources, std::int64_t length, std::uint64_t seed,
               std::int64_t vocabulary_size)
    : streams_(open_streams(sources, vocabulary_size)),
      mixture_(sizes_of(sources, streams_), length, seed) {}

Batch Loader::load(const StepPlan& plan, std::int64_t first, std::int64_t count) const {
  MOE_CHECK(first >= 0 && count >= 0 && first + count <= std::int64_t(plan.sequences.size()),
            "positions [", first, ", ", first + count, ") of a global batch of ",
            plan.sequences.size());
  const std::int64_t length = mixture_.length();
  Batch batch{Tensor::empty({count, length}, DType::i32),
              Tensor::empty({count, length}, DType::i32),
              {},
              {}};
  for (std::int64_t row = 0; row < count; ++row) {
    const PlannedSequence& sequence = plan.sequences[std::size_t(first + row)];
    const auto domain = std::size_t(sequence.domain);
    const auto span = [&](const Tensor& t) {
      return std::span(t.data<std::int32_t>() + row * length, std::size_t(length));
    };
    streams_[domain].fill_row(sequence.index * length, mixture_.cut(domain).inputs(sequence.index),
                              span(batch.tokens), span(batch.labels));
    batch.sequence_ids.push_back(plan.first_id + first + row);
    batch.domains.push_back(sequence.domain);
  }
  return batch;
}

}  // namespace moe
