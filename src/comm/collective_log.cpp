// SPDX-License-Identifier: Apache-2.0
#include "comm/collective_log.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "core/cuda_device.h"
#include "core/error.h"

namespace moe {
namespace {

struct Log {
  std::mutex mutex;
  std::deque<CollectiveRecord> records;  // numbered one after the other
  std::int64_t started = 0, finished = 0;
  int waiting = 0;
  Phase phase;
};

Log& the_log() {
  static Log log;
  return log;
}

/// In a world of threads each rank has its own; threads that never set one work for the process.
thread_local std::optional<Phase> own_phase;
thread_local std::map<std::string, double> waiting_seconds;

Phase phase_of_this_thread(const Log& log) { return own_phase.value_or(log.phase); }

}  // namespace

void set_phase(const char* name, std::int32_t layer) {
  cuda::mark_phase(name);
  std::lock_guard lock(the_log().mutex);
  Phase& phase = the_log().phase;
  own_phase = Phase{own_phase.value_or(phase).step, layer, name};
  phase.name = name;
  phase.layer = layer;
}

void set_phase_step(std::int64_t step) {
  std::lock_guard lock(the_log().mutex);
  Phase& phase = the_log().phase;
  own_phase = own_phase.value_or(phase);
  own_phase->step = phase.step = step;
}

Phase current_phase() {
  std::lock_guard lock(the_log().mutex);
  return the_log().phase;
}

std::string describe(const Phase& phase) {
  return str("step ", phase.step, phase.layer < 0 ? "" : str(", layer ", phase.layer), ", ",
             phase.name);
}

std::string describe(const CollectiveRecord& record) {
  return str(record.operation, record.bytes == 0 ? "" : str(" of ", record.bytes, " bytes"), " (",
             describe(record.phase), ")");
}

CollectiveTicket::CollectiveTicket(const char* operation, std::int64_t bytes) {
  Log& log = the_log();
  std::lock_guard lock(log.mutex);
  number_ = ++log.started;
  log.records.push_back({number_, operation, bytes, phase_of_this_thread(log), false});
  while (log.records.size() > kCollectivesKept && log.records.front().finished)
    log.records.pop_front();
}

void CollectiveTicket::finish() {
  Log& log = the_log();
  std::lock_guard lock(log.mutex);
  if (number_ == 0) return;
  log.records[std::size_t(number_ - log.records.front().number)].finished = true;
  ++log.finished;
  number_ = 0;
}

WaitingScope::WaitingScope() : start_(std::chrono::steady_clock::now()) {
  std::lock_guard lock(the_log().mutex);
  ++the_log().waiting;
}

WaitingScope::~WaitingScope() {
  const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start_;
  std::lock_guard lock(the_log().mutex);
  --the_log().waiting;
  waiting_seconds[phase_of_this_thread(the_log()).name] += waited.count();
}

std::map<std::string, double> take_waiting_seconds() { return std::exchange(waiting_seconds, {}); }

CollectiveSummary collective_summary() {
  Log& log = the_log();
  std::lock_guard lock(log.mutex);
  CollectiveSummary summary{log.started, log.finished, log.waiting > 0, {}, {}};
  const auto oldest =
      std::ranges::find(log.records, false, [](const CollectiveRecord& r) { return r.finished; });
  if (oldest != log.records.end()) summary.oldest_unfinished = *oldest;
  if (!log.records.empty()) summary.last = log.records.back();
  return summary;
}

std::vector<CollectiveRecord> last_collectives() {
  Log& log = the_log();
  std::lock_guard lock(log.mutex);
  return {log.records.begin(), log.records.end()};
}

}  // namespace moe
