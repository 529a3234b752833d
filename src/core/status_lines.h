// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moe {

// Standard error as a terminal with lines that stay at its bottom, redrawn in place, while messages
// appear above them. The cursor always waits on the row below: a process may end at any moment and
// leaves nothing to restore. Safe from many threads.

/// A message of one line, without its end; above what is shown.
void write_message(std::string_view text);

/// Shows these lines in place of the ones before, cut to the terminal's width. For terminals only
/// (live_terminal()).
void show_status(const std::vector<std::string>& lines);

/// What is shown stays as it is; messages follow below.
void leave_status();

}  // namespace moe
