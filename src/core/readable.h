// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace moe {

/// "950", "12.3k", "4.56M", "7.80G": counts and rates for people.
std::string readable_count(double value);

/// "42s", "3m05s", "2h07m": durations for people.
std::string readable_seconds(double seconds);

}  // namespace moe
