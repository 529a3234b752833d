// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "app/app.h"

namespace moe {

/// Adds what moe-split does besides splitting (verify, compare) as subcommands of the program.
Subcommands define_split_commands(CLI::App& app);

}  // namespace moe
