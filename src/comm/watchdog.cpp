// SPDX-License-Identifier: Apache-2.0
#include "comm/watchdog.h"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "comm/collective_log.h"
#include "comm/launcher.h"
#include "comm/mpi_comm.h"

namespace moe {
namespace {

using Seconds = std::chrono::duration<double>;

/// A launcher that has not ended the job by then will not: a little more than what a rank has.
constexpr int kLauncherSeconds = 4;

/// What a rank tells rank 0, as plain bytes.
struct Heartbeat {
  std::int64_t started = 0;  // collectives
  double age = 0;            // seconds since the oldest unfinished one was first seen
  bool waiting = false;      // inside a wait for collectives
  bool leaving = false;      // the rank wants to end its watchdog
  char where[96] = "";       // its phase
  char oldest[160] = "";     // the oldest unfinished collective
};

template <std::size_t N>
void assign(char (&to)[N], std::string_view text) {
  const std::size_t n = std::min(text.size(), N - 1);
  std::memcpy(to, text.data(), n);
  to[n] = '\0';
}

/// Seconds during which this process ran. A gap between two ticks counts as two intervals at most,
/// so a job that is stopped and continued as a whole does not find itself late.
class WatchClock {
 public:
  explicit WatchClock(double interval) : largest_(2 * interval) {}
  double tick() {
    const auto now = std::chrono::steady_clock::now();
    now_ += std::min(Seconds(now - last_).count(), largest_);
    last_ = now;
    return now_;
  }

 private:
  double largest_, now_ = 0;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

bool complete(MPI_Request& request) {
  int done = 0;
  MPI_CHECK(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
  return done != 0;
}

}  // namespace

/// Every heartbeat of a member is answered by rank 0 before the next one is sent, so each side
/// hears that the other is alive, and at the end no message is left over. The answer says whether
/// all ranks want to leave; then both sides stop.
struct Watchdog::State {
  State(double limit_seconds, MPI_Comm owned);
  ~State();
  void run();
  Heartbeat beat(double now);
  bool follow(double now, const Heartbeat& current);
  bool lead(double now, const Heartbeat& current);
  void judge(double now);
  [[noreturn]] void name_the_late(double now, int waiter);
  bool silent(int r, double now) const { return now - seen[std::size_t(r)] > limit / 2 + interval; }

  MPI_Comm comm;
  int rank = 0, size = 1;
  const double limit, interval, grace;

  std::mutex mutex;
  std::condition_variable changed;
  bool leaving = false, stopped = false;

  // The rest belongs to the thread.
  std::int64_t oldest = 0;  // number of the oldest unfinished collective, and since when
  double oldest_since = 0;
  Heartbeat mine;  // under way to rank 0
  char answer = 0;
  MPI_Request sent = MPI_REQUEST_NULL, answered = MPI_REQUEST_NULL;
  double heard = 0;  // when rank 0 answered last
  // On rank 0, by rank:
  std::vector<Heartbeat> beats, incoming;
  std::vector<MPI_Request> receives, answers;
  std::vector<char> said, released;
  std::vector<double> seen;

  std::thread thread;
};

Watchdog::State::State(double limit_seconds, MPI_Comm owned)
    : comm(owned),
      limit(limit_seconds),
      interval(std::min(0.5, limit_seconds / 8)),
      grace(std::clamp(limit_seconds / 4, 2.0, 4.0)) {
  MPI_CHECK(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
  MPI_CHECK(MPI_Comm_rank(comm, &rank));
  MPI_CHECK(MPI_Comm_size(comm, &size));
  if (rank == 0) {
    const auto n = std::size_t(size);
    beats.resize(n);
    incoming.resize(n);
    receives.assign(n, MPI_REQUEST_NULL);
    answers.assign(n, MPI_REQUEST_NULL);
    said.assign(n, 0);
    released.assign(n, 0);
    seen.assign(n, 0);
    for (int r = 1; r < size; ++r)
      MPI_CHECK(MPI_Irecv(&incoming[std::size_t(r)], sizeof(Heartbeat), MPI_BYTE, r, 0, comm,
                          &receives[std::size_t(r)]));
  }
  thread = std::thread([this] {
    try {
      run();
    } catch (const std::exception& failure) {
      end_job(str("rank ", rank, ": watchdog: ", failure.what()), 1);
    }
  });
}

Watchdog::State::~State() {
  {
    std::lock_guard lock(mutex);
    (std::uncaught_exceptions() > 0 ? stopped : leaving) = true;
  }
  changed.notify_all();
  // A rank that leaves waits for the others, and is watched while it does.
  CollectiveTicket ticket("the end of the watchdog", 0);
  WaitingScope waiting;
  thread.join();
  if (!stopped) MPI_Comm_free(&comm);
}

void Watchdog::State::run() {
  WatchClock clock(interval);
  for (;;) {
    const double now = clock.tick();
    const Heartbeat current = beat(now);
    if (rank == 0 ? lead(now, current) : follow(now, current)) return;
    std::unique_lock lock(mutex);
    const double pause = leaving ? std::min(interval, 0.02) : interval;
    const bool was_leaving = leaving;
    changed.wait_for(lock, Seconds(pause), [&] { return stopped || leaving != was_leaving; });
    if (stopped) return;
  }
}

Heartbeat Watchdog::State::beat(double now) {
  const CollectiveSummary summary = collective_summary();
  Heartbeat heartbeat;
  heartbeat.started = summary.started;
  heartbeat.waiting = summary.waiting;
  if (summary.oldest_unfinished.number != oldest) {
    oldest = summary.oldest_unfinished.number;
    oldest_since = now;
  }
  if (oldest > 0) {
    heartbeat.age = now - oldest_since;
    assign(heartbeat.oldest, describe(summary.oldest_unfinished));
  }
  assign(heartbeat.where, describe(current_phase()));
  std::lock_guard lock(mutex);
  heartbeat.leaving = leaving;
  return heartbeat;
}

bool Watchdog::State::follow(double now, const Heartbeat& current) {
  if (answered != MPI_REQUEST_NULL && complete(answered)) {
    heard = now;
    if (answer != 0) {
      MPI_CHECK(MPI_Wait(&sent, MPI_STATUS_IGNORE));
      return true;
    }
  }
  if (now - heard > limit + grace) {
    end_launcher_after(kLauncherSeconds);
    end_job(str("rank ", rank, ": watchdog: rank 0 has been silent for ", int(now - heard),
                " s (its process is stopped or gone, or its host cannot be reached); this rank "
                "was at ",
                current.where),
            1);
  }
  if (answered == MPI_REQUEST_NULL && complete(sent)) {
    mine = current;
    MPI_CHECK(MPI_Irecv(&answer, 1, MPI_CHAR, 0, 0, comm, &answered));
    MPI_CHECK(MPI_Isend(&mine, sizeof mine, MPI_BYTE, 0, 0, comm, &sent));
  }
  return false;
}

bool Watchdog::State::lead(double now, const Heartbeat& current) {
  beats[0] = current;
  seen[0] = now;
  for (std::size_t r = 1; r < beats.size(); ++r) {
    if (receives[r] == MPI_REQUEST_NULL || !complete(receives[r])) continue;
    beats[r] = incoming[r];
    seen[r] = now;
  }
  const bool all_leave = std::ranges::all_of(beats, [](const Heartbeat& b) { return b.leaving; });
  for (std::size_t r = 1; r < beats.size(); ++r) {
    if (receives[r] != MPI_REQUEST_NULL || released[r] || !complete(answers[r])) continue;
    said[r] = released[r] = all_leave;
    MPI_CHECK(MPI_Isend(&said[r], 1, MPI_CHAR, int(r), 0, comm, &answers[r]));
    if (!released[r])
      MPI_CHECK(
          MPI_Irecv(&incoming[r], sizeof(Heartbeat), MPI_BYTE, int(r), 0, comm, &receives[r]));
  }
  judge(now);
  if (std::count(released.begin(), released.end(), 1) < size - 1) return false;
  MPI_CHECK(MPI_Waitall(size, answers.data(), MPI_STATUSES_IGNORE));
  return true;
}

void Watchdog::State::judge(double now) {
  const auto longest = std::ranges::max_element(beats, {}, &Heartbeat::age);
  if (longest->age > limit) name_the_late(now, int(longest - beats.begin()));
  for (int r = 1; r < size; ++r)
    if (!released[std::size_t(r)] && now - seen[std::size_t(r)] > limit + grace)
      name_the_late(now, -1);
}

/// Silent ranks first; else those that started the fewest collectives; among equals those that do
/// not wait. When all wait and none is behind, no rank is late.
void Watchdog::State::name_the_late(double now, int waiter) {
  const auto place = [&](int r) {
    const Heartbeat& b = beats[std::size_t(r)];
    return silent(r, now) ? std::pair(std::int64_t{-1}, false) : std::pair(b.started, b.waiting);
  };
  std::vector<int> ranks(std::size_t(size), 0);
  for (int r = 0; r < size; ++r) ranks[std::size_t(r)] = r;
  const auto first = place(*std::ranges::min_element(ranks, {}, place));
  const auto last = place(*std::ranges::max_element(ranks, {}, place));
  const bool late = first != last;
  if (late) std::erase_if(ranks, [&](int r) { return place(r) != first; });

  std::string text = "watchdog: ";
  if (late)
    text += str(ranks.size() == 1 ? "rank " : "ranks ", join(ranks, ", "),
                ranks.size() == 1 ? " is late" : " are late");
  else
    text += str("all ", size,
                " ranks wait and none is behind: their calls do not match, or the "
                "network between them does not work");
  constexpr std::size_t kShown = 8;
  bool unreachable = false;
  for (const int r : std::span(ranks).first(std::min(ranks.size(), kShown))) {
    const Heartbeat& b = beats[std::size_t(r)];
    text += str("\n  rank ", r, ": ", b.where, "; ");
    if (late)
      text += str(b.started, " collectives started, others ", last.first);
    else
      text += str("waits for ", b.oldest);
    if (silent(r, now)) {
      unreachable = true;
      text += str("; silent for ", int(now - seen[std::size_t(r)]),
                  " s: its process is stopped or gone, or its host cannot be reached");
    }
  }
  if (late && waiter >= 0) {
    const Heartbeat& b = beats[std::size_t(waiter)];
    text += str("\n  rank ", waiter, " has waited ", int(b.age), " s for ", b.oldest);
  }
  text += "\n  last collectives of rank 0:";
  const std::vector<CollectiveRecord> records = last_collectives();
  for (const CollectiveRecord& r :
       std::span(records).last(std::min<std::size_t>(4, records.size())))
    text += str("\n    ", r.number, ": ", describe(r), r.finished ? "" : ", unfinished");
  if (unreachable) end_launcher_after(kLauncherSeconds);
  end_job(text, 1);
}

Watchdog::Watchdog(double limit_seconds) {
  int initialised = 0, size = 1;
  MPI_Initialized(&initialised);
  if (initialised) MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &size));
  if (limit_seconds <= 0 || size == 1) return;
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  state_ = new State(limit_seconds, comm);
}

Watchdog::~Watchdog() { delete state_; }

}  // namespace moe
