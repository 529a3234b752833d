// SPDX-License-Identifier: Apache-2.0
#include "data/loader.h"

#include "core/error.h"

namespace moe {
namespace {

std::vector<Sequences> open_domains(const std::vector<DomainSource>& sources, std::int64_t length,
                                    std::int64_t vocabulary_size, const PackingOptions& packing) {
  std::vector<Sequences> domains;
  domains.reserve(sources.size());
  for (const DomainSource& source : sources) {
    MOE_REQUIRE(!source.files.empty(), "domain '", source.name, "' has no token shards");
    domains.emplace_back(source.files, length, vocabulary_size, packing);
  }
  const TokenFile* named = nullptr;
  for (const Sequences& domain : domains)
    for (const TokenFile& file : domain.stream().files()) {
      if (file.info().tokenizer_hash.empty()) continue;
      if (named != nullptr) require_same_tokenizer(*named, file);
      named = &file;
    }
  return domains;
}

std::vector<DomainSize> sizes_of(const std::vector<DomainSource>& sources,
                                 const std::vector<Sequences>& domains) {
  std::vector<DomainSize> sizes;
  for (std::size_t d = 0; d < sources.size(); ++d)
    sizes.push_back(
        {sources[d].name, sources[d].weight, domains[d].count(), sources[d].max_epochs});
  return sizes;
}

}  // namespace

Loader::Loader(const std::vector<DomainSource>& sources, std::int64_t length, std::uint64_t seed,
               std::int64_t vocabulary_size, const PackingOptions& packing)
    : domains_(open_domains(sources, length, vocabulary_size, packing)),
      mixture_(sizes_of(sources, domains_), seed) {}

StepPlan Loader::plan(std::int64_t step, std::int64_t global_batch,
                      const MixtureState& state) const {
  StepPlan plan{mixture_.draw(step, global_batch, state)};
  for (const PlannedSequence& sequence : plan.sequences) {
    const Sequences::Size size = domains_[std::size_t(sequence.domain)].size(sequence.index);
    plan.labels += size.labels;
    plan.tokens += size.tokens;
  }
  return plan;
}

Batch Loader::load(const StepDraw& plan, std::int64_t first, std::int64_t count) const {
  MOE_CHECK(first >= 0 && count >= 0 && first + count <= std::int64_t(plan.sequences.size()),
            "positions [", first, ", ", first + count, ") of a global batch of ",
            plan.sequences.size());
  Batch batch = domains_.front().empty_batch(count);
  for (std::int64_t row = 0; row < count; ++row) {
    const PlannedSequence& sequence = plan.sequences[std::size_t(first + row)];
    domains_[std::size_t(sequence.domain)].fill(sequence.index, batch, row);
    batch.sequence_ids.push_back(plan.first_id + first + row);
    batch.domains.push_back(sequence.domain);
  }
  return batch;
}

}  // namespace moe
