// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include <atomic>

#include "core/status_lines.h"

namespace moe {
namespace {
std::atomic<int> rank_of_this_process{0};
}

void set_log_rank(int rank) { rank_of_this_process = rank; }
int log_rank() { return rank_of_this_process; }

void log_line(std::string_view text) { write_message(text); }

}  // namespace moe
