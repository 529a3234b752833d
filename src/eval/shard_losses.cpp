// SPDX-License-Identifier: Apache-2.0
#include "eval/shard_losses.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace moe {
namespace {

/// The shards of one domain, by their places in what was given.
struct Domain {
  std::string name;
  std::vector<std::size_t> shards;
  std::vector<std::filesystem::path> files;
};

/// A sum that ends up as a mean.
void add(HeldOutLoss& to, double sum, std::int64_t tokens) {
  to.loss += sum;
  to.tokens += tokens;
}
void finish(HeldOutLoss& loss) {
  if (loss.tokens > 0) loss.loss /= double(loss.tokens);
}

}  // namespace

HeldOutLoss ShardLosses::total() const {
  HeldOutLoss all;
  for (const DomainLoss& d : domains) add(all, d.loss.loss * double(d.loss.tokens), d.loss.tokens);
  finish(all);
  return all;
}

std::int64_t ShardLosses::sequences() const {
  std::int64_t n = 0;
  for (const DomainLoss& d : domains) n += d.sequences;
  return n;
}

ShardLosses shard_losses(const Transformer& model, const std::vector<std::filesystem::path>& shards,
                         bool per_document, std::int64_t length, std::int64_t micro_batch,
                         Communicator& world, const LossProgress& progress) {
  const ModelConfig& c = model.config();
  std::vector<Domain> domains;
  std::vector<std::size_t> first_document = {0};  // of each shard, in `documents`
  ShardLosses result;
  for (std::size_t s = 0; s < shards.size(); ++s) {
    const TokenFile file(shards[s]);
    const std::string& name = file.info().domain;
    auto domain = std::find_if(domains.begin(), domains.end(),
                               [&](const Domain& d) { return d.name == name; });
    if (domain == domains.end()) domain = domains.insert(domain, {name, {}, {}});
    domain->shards.push_back(s);
    domain->files.push_back(shards[s]);
    if (!per_document) continue;
    for (std::int64_t d = 0; d < file.documents(); ++d) result.documents.push_back({s, d, {}});
    first_document.push_back(result.documents.size());
  }

  std::vector<HeldOut> held_out;
  std::int64_t labels = 0, done = 0;
  for (const Domain& domain : domains) {
    held_out.push_back(per_document
                           ? HeldOut::documents(domain.files, length, c.vocab_size,
                                                c.bos_token >= 0
                                                    ? std::optional(std::int32_t(c.bos_token))
                                                    : std::nullopt)
                           : HeldOut::windows(domain.files, length, c.vocab_size));
    labels += held_out.back().labels();
  }
  for (std::size_t i = 0; i < domains.size(); ++i) {
    const HeldOut& data = held_out[i];
    std::int64_t sequences = 0;
    const Tensor sums = sequence_losses(model, data, data.sequences(), micro_batch, world, [&] {
      sequences = std::min(data.sequences(), sequences + micro_batch * world.size());
      if (progress) progress(done + data.labels() * sequences / data.sequences(), labels);
    });
    done += data.labels();
    DomainLoss of_domain{domains[i].name, {}, data.sequences()};
    // The documents of the domain as HeldOut numbers them: over its shards alone.
    std::vector<std::size_t> places;
    if (per_document)
      for (const std::size_t s : domains[i].shards)
        for (std::size_t d = first_document[s]; d < first_document[s + 1]; ++d) places.push_back(d);
    for (std::int64_t s = 0; s < data.sequences(); ++s) {
      const double* sum = sums.data<double>() + 2 * s;
      add(of_domain.loss, sum[0], std::int64_t(sum[1]));
      if (per_document)
        add(result.documents[places[std::size_t(data.document_of(s))]].loss, sum[0],
            std::int64_t(sum[1]));
    }
    finish(of_domain.loss);
    result.domains.push_back(of_domain);
  }
  for (DocumentLoss& d : result.documents) finish(d.loss);
  return result;
}

std::string document_scores_jsonl(const ShardLosses& losses,
                                  const std::vector<std::string>& shards) {
  std::string out;
  for (const DocumentLoss& d : losses.documents) {
    nlohmann::ordered_json line = {{"shard", shards.at(d.shard)},
                                   {"document", d.document},
                                   {"tokens", d.loss.tokens},
                                   {"loss", nullptr}};
    if (d.loss.tokens > 0) line["loss"] = d.loss.loss;
    out += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  return out;
}

}  // namespace moe
