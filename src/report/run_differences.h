// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "report/run_record.h"

namespace moe {

/// The keys whose values are not the same in all configurations, as a table with a column for each
/// run; of a single run all keys, folded away. Empty when no configuration is known.
std::string differences_html(std::span<const RunRecord> runs);

}  // namespace moe
