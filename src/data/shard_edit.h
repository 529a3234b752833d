// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace moe {

/// New shards out of the documents of others.
struct ShardEdit {
  std::vector<std::filesystem::path> inputs;
  std::string domain;  // of the result; empty: the inputs', which must then agree
  /// X.h5; with one of the next two X-00000.h5, X-00001.h5, ...
  std::filesystem::path output;
  std::int64_t shard_tokens = 0;     // a shard ends with the document that reaches so many
  std::int64_t shard_documents = 0;  // a shard has so many documents
  bool force = false;                // replace existing shards
};

struct ShardEditReport {
  struct Shard {
    std::filesystem::path path;
    std::int64_t documents, tokens;
  };
  std::vector<Shard> shards;
};

/// Hears how many of the documents have been copied.
using ShardEditProgress = std::function<void(std::int64_t documents, std::int64_t tokens)>;

// All read the inputs once before they copy: a damaged one is refused. Memory is constant; the disk
// has the result twice for a while. Throw InputError.

/// All documents, in order.
ShardEditReport merge_shards(const ShardEdit& edit, const ShardEditProgress& progress = {});

/// All documents, in an order that the seed and their number decide.
ShardEditReport shuffle_shards(const ShardEdit& edit, std::uint64_t seed,
                               const ShardEditProgress& progress = {});

/// Which documents to take by the loss that a model has on them.
struct LossBounds {
  std::optional<double> min, max;       // both inside
  std::optional<double> keep_fraction;  // of all documents: those of least loss
};

struct SelectReport {
  ShardEditReport written;
  std::int64_t above = 0, below = 0;  // left out for their loss
  std::int64_t unscored = 0;          // left out without one
};

/// The documents whose loss is within the bounds, in order. `scores`: lines of {"shard",
/// "document", "tokens", "loss"}, one for each document in order, as `moe-eval loss --per-document
/// --scores` writes them; refused where they are not about these shards.
SelectReport select_documents(const ShardEdit& edit, const std::filesystem::path& scores,
                              const LossBounds& bounds, const ShardEditProgress& progress = {});

}  // namespace moe
