// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "train/held_out_loss.h"

namespace moe {

struct DomainLoss {
  std::string domain;
  HeldOutLoss loss;
  std::int64_t sequences = 0;
};

/// A document of a shard and how well the model predicts it.
struct DocumentLoss {
  std::size_t shard = 0;      // in the order in which shards were given
  std::int64_t document = 0;  // in its shard
  HeldOutLoss loss;           // no tokens: nothing could be scored
};

struct ShardLosses {
  std::vector<DomainLoss> domains;      // in the order in which they first appear
  std::vector<DocumentLoss> documents;  // in the order of the shards; empty for windows
  HeldOutLoss total() const;
  std::int64_t sequences() const;
};

/// Hears how many tokens have been scored, of how many.
using LossProgress = std::function<void(std::int64_t done, std::int64_t of)>;

/// The loss of a model on shards, by their domains: windows over the shards of each domain, one
/// behind the other, or (`per_document`) each document alone, BOS first where the model has one
/// (data/held_out.h). Every rank holds the whole model and takes its share. Collective.
ShardLosses shard_losses(const Transformer& model, const std::vector<std::filesystem::path>& shards,
                         bool per_document, std::int64_t length, std::int64_t micro_batch,
                         Communicator& world, const LossProgress& progress = {});

/// One JSON line a document: {"shard":path as given,"document":0,"tokens":12,"loss":3.21}; loss is
/// null where there are no tokens.
std::string document_scores_jsonl(const ShardLosses& losses,
                                  const std::vector<std::string>& shards);

}  // namespace moe
