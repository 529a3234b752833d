// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace moe {

// Which checkpoints lie where: a run's folder of checkpoints holds step-00001000/ and the like. A
// folder without a manifest is not complete and counts as none, unless a comment says otherwise.

/// "step-00001000"
std::string checkpoint_name(std::int64_t step);
/// Where a save of that step is under way: a name of its own beside the checkpoint's.
std::filesystem::path unfinished_checkpoint(const std::filesystem::path& checkpoints,
                                            std::int64_t step);
/// Removes what interrupted saves and removals left. One rank calls it, while no save is under way.
/// Throws Error.
void remove_leftovers(const std::filesystem::path& checkpoints);

/// Whether the folder is a complete checkpoint (it may still be damaged).
bool is_checkpoint(const std::filesystem::path& folder);

/// Every folder named like a checkpoint, by step; also those without a manifest.
std::map<std::int64_t, std::filesystem::path> checkpoint_folders(
    const std::filesystem::path& checkpoints);

/// The checkpoint of the highest step in a folder of checkpoints, if any.
std::optional<std::filesystem::path> latest_checkpoint(const std::filesystem::path& checkpoints);

/// What a user means by a folder: a checkpoint, a folder of checkpoints, or a run's folder; of
/// several checkpoints the latest. Throws InputError when there is none.
std::filesystem::path find_checkpoint(const std::filesystem::path& folder);

/// Renames what is named like a checkpoint of a step after `step` to abandoned-step-N, so that a
/// run that goes on from `step` does not meet it again; nothing is deleted. One rank calls it.
/// Throws Error. Returns how many there were.
std::int64_t abandon_checkpoints_after(const std::filesystem::path& checkpoints, std::int64_t step);

/// Which checkpoints stay.
struct Retention {
  std::int64_t last = 0;   // as many of the highest steps; 0: all
  std::int64_t every = 0;  // those whose step is a multiple; 0: no others
};

/// Removes the checkpoints that are not to stay, oldest first; the newest always stays. One rank
/// calls it. Throws Error.
void prune_checkpoints(const std::filesystem::path& checkpoints, const Retention& keep);

}  // namespace moe
