// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <vector>

#include "data/shard_set.h"

namespace moe {

/// The loss of each document of the shards, in order; -1 for those that have none. `path`: jsonl
/// lines {"shard":"web.h5","document":0,"tokens":123,"loss":3.21}, loss null where nothing was
/// scored, one line for every document in order. Throws InputError, naming the line, unless they
/// are about these shards: the same file names, documents and, to one (a BOS), numbers of tokens.
std::vector<float> read_document_scores(const std::filesystem::path& path, const ShardSet& shards);

}  // namespace moe
