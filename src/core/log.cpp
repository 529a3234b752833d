// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include <atomic>
#include <cstdio>
#include <string>

namespace moe {
namespace {
std::atomic<int> rank_of_this_process{0};
}

void set_log_rank(int rank) { rank_of_this_process = rank; }
int log_rank() { return rank_of_this_process; }

void log_line(std::string_view text) {
  // One write per line, so that lines of several ranks do not mix.
  const std::string line = std::string(text) + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace moe
