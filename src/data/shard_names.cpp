// SPDX-License-Identifier: Apache-2.0
#include "data/shard_names.h"

#include <fmt/format.h>

#include <string>

#include "data/token_format.h"

namespace moe {

namespace fs = std::filesystem;

fs::path shard_name(const fs::path& output, std::size_t i, bool numbered) {
  if (!numbered) return output;
  const std::string stem = output.extension() == ".h5" ? output.stem() : output.filename();
  return output.parent_path() / fmt::format("{}-{:05}.h5", stem, i);
}

void remove_shards_from(const fs::path& output, std::size_t first) {
  for (std::size_t i = first; fs::remove(manifest_path(shard_name(output, i, true))); ++i)
    fs::remove(shard_name(output, i, true));
}

}  // namespace moe
