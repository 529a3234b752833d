// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "comm/watchdog.h"

namespace moe {

/// A collective that this process started. `bytes` counts this rank's tensors.
struct CollectiveRecord {
  std::int64_t number = 0;  // 1 is the first of the process; 0 stands for none
  const char* operation = "";
  std::int64_t bytes = 0;
  Phase phase;  // where the rank was when it started the collective
  bool finished = false;
};

/// "all_reduce of 4096 bytes (step 3, layer 2, backward)".
std::string describe(const CollectiveRecord& record);
/// "step 3, layer 2, backward".
std::string describe(const Phase& phase);

/// Puts a collective into the log of this process when it starts, and marks it finished at the end
/// of its life.
class CollectiveTicket {
 public:
  CollectiveTicket(const char* operation, std::int64_t bytes);
  ~CollectiveTicket() { finish(); }
  CollectiveTicket(const CollectiveTicket&) = delete;
  CollectiveTicket& operator=(const CollectiveTicket&) = delete;

  void finish();

 private:
  std::int64_t number_;
};

/// This rank does nothing but wait for collectives while a scope of this type lives.
class WaitingScope {
 public:
  WaitingScope();
  ~WaitingScope();
  WaitingScope(const WaitingScope&) = delete;
  WaitingScope& operator=(const WaitingScope&) = delete;

 private:
  std::chrono::steady_clock::time_point start_;
};

/// Seconds that this thread has spent in WaitingScopes since it last asked, by the name of the
/// phase that it was in: communication that nothing hides.
std::map<std::string, double> take_waiting_seconds();

/// What the watchdog reads. All may be called from any thread.
struct CollectiveSummary {
  std::int64_t started = 0, finished = 0;
  bool waiting = false;
  CollectiveRecord oldest_unfinished, last;
};
CollectiveSummary collective_summary();

/// The collectives under way and the most recent finished ones, oldest first.
std::vector<CollectiveRecord> last_collectives();
inline constexpr std::size_t kCollectivesKept = 32;

}  // namespace moe
