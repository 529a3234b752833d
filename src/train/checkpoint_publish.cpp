// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint_publish.h"

#include <utility>

#include "core/durable_files.h"
#include "train/checkpoint_files.h"

namespace moe {
namespace fs = std::filesystem;

std::int64_t complete_checkpoint(const fs::path& unfinished, Manifest manifest,
                                 const CheckpointTexts& texts) {
  for (const auto& [name, text] :
       {std::pair("state.json", &texts.state), std::pair("model.json", &texts.model),
        std::pair("config.yaml", &texts.config)}) {
    write_synced(unfinished / name, *text);
    const FileDigest digest = digest_of(unfinished / name);
    manifest.files.push_back({name, digest.bytes, digest.checksum});
  }
  const fs::path first = unfinished / (std::string(kManifestName) + ".tmp");
  write_synced(first, to_text(manifest));
  rename_path(first, unfinished / kManifestName);
  sync_path(unfinished);
  std::int64_t bytes = 0;
  for (const ManifestFile& file : manifest.files) bytes += file.bytes;
  return bytes;
}

void put_in_place(const fs::path& complete, const fs::path& folder) {
  if (fs::exists(folder))
    exchange_paths(complete, folder);
  else
    rename_path(complete, folder);
  sync_path(folder.parent_path());
  std::error_code later;  // what stays is removed by the next save
  fs::remove_all(complete, later);
}

}  // namespace moe
