// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "app/split_arms_command.h"

namespace moe {

/// Adds what moe-split does besides splitting (verify, compare, arms) as subcommands of the
/// program.
Subcommands define_split_commands(CLI::App& app, const OnRanks& on_ranks);

}  // namespace moe
