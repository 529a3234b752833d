// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "split/arms.h"

namespace moe {

/// A comparison of arms as one JSON object (docs/file_formats.md).
std::string arms_json(const ArmsOptions& options, const ArmsReport& report);

/// The same as a Markdown table for each test.
std::string arms_text(const ArmsReport& report);

}  // namespace moe
