// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "train/checkpoint.h"

namespace moe {

// Checkpoints to go on from. Collective: the ranks share the reading of the files and agree.

/// The checkpoint in this folder. Rank 0 says which folder. Throws InputError on every rank, with
/// what is wrong, when it is damaged.
std::shared_ptr<const CheckpointReader> open_verified(const std::filesystem::path& folder,
                                                      Communicator& world);

/// The newest checkpoint of a folder of checkpoints that is whole, or null when none was ever
/// written. Rank 0 warns of every newer one, with what is wrong with it. Throws InputError on every
/// rank when there are checkpoints and none is whole: to start anew then is for people to decide.
std::shared_ptr<const CheckpointReader> newest_good_checkpoint(
    const std::filesystem::path& checkpoints, Communicator& world);

/// Where a rollback goes: the newest whole checkpoint of a step up to `highest`, or null. One that
/// was saved as usual, at a multiple of `every`, is preferred to those that signals left, so that a
/// run that was stopped goes where the straight one does. Rank 0 warns of damaged ones.
std::shared_ptr<const CheckpointReader> rollback_checkpoint(
    const std::filesystem::path& checkpoints, std::int64_t highest, std::int64_t every,
    Communicator& world);

}  // namespace moe
