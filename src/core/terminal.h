// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace moe {

/// Whether standard error is a terminal on which lines can be redrawn.
bool live_terminal();

/// Columns of the terminal: of standard error, or of the one that this process was started from;
/// 80 where there is none.
int terminal_width();

/// The longest beginning of UTF-8 text that takes at most `columns` columns, one per character.
std::string cut_to_width(std::string_view text, std::size_t columns);

/// One small bar for each value between 0 and `most`, where the locale is UTF-8; empty elsewhere.
std::string bars(std::span<const double> values, double most);

}  // namespace moe
