// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "report/run_record.h"

namespace moe {

/// A page on training runs, side by side where there are several: losses, routing, speed, memory,
/// how their configurations differ. Needs no network. Charts that no run has numbers for are left
/// out. An empty title: the runs' names.
std::string run_page(std::span<const RunRecord> runs, const std::string& title);

}  // namespace moe
