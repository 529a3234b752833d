// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "comm/communicator.h"

namespace moe {

/// Where a rollback goes: the newest checkpoint of a step up to `highest` of which every byte is as
/// it was written, if any; damaged ones are passed over with a warning. One that was saved as
/// usual, at a multiple of `every`, is preferred to those that signals left, so that a run that was
/// stopped goes where the straight one does. Rank 0 looks and tells the others. Collective.
std::optional<std::filesystem::path> newest_good_checkpoint(
    const std::filesystem::path& checkpoints, std::int64_t highest, std::int64_t every,
    Communicator& world);

}  // namespace moe
