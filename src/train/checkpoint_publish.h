// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>

#include "train/checkpoint.h"
#include "train/checkpoint_manifest.h"

namespace moe {

// The end of a save. Internal to the checkpoint files; both throw Error.

/// In the folder where the files that `manifest` lists are, writes and syncs the texts and, last,
/// the manifest. Returns the bytes of all files but the manifest.
std::int64_t complete_checkpoint(const std::filesystem::path& unfinished, Manifest manifest,
                                 const CheckpointTexts& texts);

/// Renames a complete checkpoint to `folder`; what had that name is removed.
void put_in_place(const std::filesystem::path& complete, const std::filesystem::path& folder);

}  // namespace moe
