// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>
#include <vector>

#include "app/app.h"

namespace moe {

/// Adds what moe-split does besides splitting (verify, compare) as subcommands of the program.
/// Returns each with what to run when it was the one given.
std::vector<std::pair<CLI::App*, Action>> define_split_commands(CLI::App& app);

}  // namespace moe
