// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>

namespace moe {

/// X.h5, or for number i of several shards X-00000.h5, X-00001.h5, ...
std::filesystem::path shard_name(const std::filesystem::path& output, std::size_t i, bool numbered);

/// Removes numbered shards from number `first` on, with their manifests.
void remove_shards_from(const std::filesystem::path& output, std::size_t first);

}  // namespace moe
