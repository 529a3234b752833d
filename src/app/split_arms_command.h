// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "app/app.h"
#include "comm/communicator.h"

namespace moe {

/// Runs a body on the ranks that this process was started with, with so many threads each (0: the
/// cores over the host's ranks), and gives its exit code.
using OnRanks =
    std::function<int(std::int64_t threads, const std::function<int(Communicator&)>& body)>;

/// `moe-split arms`.
Action define_split_arms(CLI::App& app, const OnRanks& on_ranks);

}  // namespace moe
