// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace moe {

/// Where this rank is in its work, for the watchdog's message. Set by the trainer and the layers;
/// cheap; read from another thread.
struct Phase {
  std::int64_t step = 0;
  std::int32_t layer = -1;
  const char* name = "start";  // a string literal
};
void set_phase(const char* name, std::int32_t layer = -1);
void set_phase_step(std::int64_t step);
Phase current_phase();

/// Ends the job when a collective stays unfinished for longer than the limit. A thread of its own
/// on each rank exchanges heartbeats with rank 0 on a communicator of its own, so they do not pass
/// through the stuck collective; the rank that is late (fewest collectives started, or silent) is
/// named with its step, layer and phase, then all ranks end with exit code 1.
class Watchdog {
 public:
  /// limit_seconds <= 0 turns it off, and so does a world of one. Collective over MPI_COMM_WORLD,
  /// as is its end: a rank that leaves waits, watched, for the others to leave.
  explicit Watchdog(double limit_seconds);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  struct State;
  State* state_ = nullptr;
};

}  // namespace moe
