// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "data/batch_reader.h"
#include "data/shard_set.h"

namespace moe {

/// The documents of token shards in batches, as BatchReader gives those of text files. What a batch
/// holds depends only on where it begins.
class ShardBatches {
 public:
  ShardBatches(const ShardSet& shards, InputPosition from) : shards_(shards), at_(from) {}

  bool next(SourceBatch& batch);

 private:
  const ShardSet& shards_;
  InputPosition at_;
};

}  // namespace moe
