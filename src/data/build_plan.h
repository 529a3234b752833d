// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/build_shards.h"
#include "data/shard_set.h"

namespace moe {

/// A build with its defaults filled in and its options checked.
struct BuildPlan {
  BuildOptions options;
  IntakeOptions intake;
  std::optional<ShardSet> shards;  // the inputs, where they are token shards
  TokenFileInfo info;              // of the shards; the domain is empty where sets decide it
  std::filesystem::path job_folder;

  /// Throws InputError for options that contradict each other.
  explicit BuildPlan(const BuildOptions& options);

  /// All that the waiting documents depend on, and all that the shards made of them do besides:
  /// JSON objects.
  std::string reading_job() const;
  std::string writing_job() const;

  /// The shards of a domain: number i of them (only 0 without shard_tokens), and the held-out one.
  std::filesystem::path shard(const std::string& domain, std::size_t i) const;
  std::filesystem::path held_out_shard(const std::string& domain) const;
  /// Throws InputError when the file must not be replaced.
  void require_free(const std::filesystem::path& shard) const;
  /// The same for all shards that are known beforehand.
  void require_free() const;
  /// With force: removes what an older build with more shards has left of the domain's.
  void remove_older(const std::string& domain, std::size_t count) const;

 private:
  std::filesystem::path whole(const std::string& domain) const;
};

}  // namespace moe
