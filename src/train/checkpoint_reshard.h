// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>

#include "train/checkpoint.h"

namespace moe {

/// Writes the same checkpoint as another folder, with every tensor's rows spread evenly over
/// `files` files. Reads and writes a few MB at a time, and checks every byte of both. An existing
/// checkpoint is replaced, at the end, only when `force` is set; any other folder never is. Throws
/// InputError for a damaged checkpoint, and Error; then nothing is left. Returns the number of
/// files that hold tensors: there are fewer when no tensor has so many rows.
std::int64_t reshard_checkpoint(const CheckpointReader& reader, const std::filesystem::path& output,
                                std::int64_t files, bool force);

}  // namespace moe
