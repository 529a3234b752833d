// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>

#include "comm/collective_checks.h"
#include "comm/collective_log.h"
#include "comm/communicator.h"

namespace moe {
namespace {

/// What the ranks of one run_ranks call share.
struct Job {
  explicit Job(int size) : ended(std::size_t(size), false) {}

  std::mutex mutex;  // guards this, and every Meeting of every group
  std::condition_variable changed;
  std::string failure;      // not empty: a rank failed, nothing completes any more
  std::vector<bool> ended;  // by world rank: its body has returned
};

struct Meeting;

struct Group {
  std::shared_ptr<Job> job;
  std::vector<int> world_ranks;
  std::map<std::int64_t, std::shared_ptr<Meeting>> meetings;  // incomplete, by sequence
};

/// One member's part of a collective.
struct Call {
  std::string what;  // what all members must agree on, in words
  void (*perform)(Meeting&) = nullptr;
  Tensor out, in;
  ReduceOp op = ReduceOp::sum;
  int root = 0;
  std::vector<std::int64_t> recv_rows, send_rows;  // parts: in send_rows
  int color = 0, key = 0;
};

/// One collective of one group. The member that joins last performs it for all: every tensor
/// belongs to the operation by then, so the others have nothing to do.
struct Meeting {
  explicit Meeting(const Group& group)
      : world_ranks(group.world_ranks), calls(world_ranks.size()), errors(world_ranks.size()) {}

  int size() const { return int(calls.size()); }
  Call& call(int p) { return *calls[std::size_t(p)]; }

  std::vector<int> world_ranks;
  std::vector<std::optional<Call>> calls;                      // by rank of the group
  std::vector<std::string> errors;                             // by rank of the group; empty: none
  std::vector<std::pair<std::shared_ptr<Group>, int>> places;  // split: the new group, rank in it
  int joined = 0;
  bool done = false;
};

std::byte* element(const Tensor& x, std::int64_t i) {
  return x.bytes() + std::size_t(i) * size_of(x.dtype());
}

void copy(std::byte* to, const std::byte* from, std::int64_t elements, DType dtype) {
  if (elements > 0 && to != from) std::memcpy(to, from, std::size_t(elements) * size_of(dtype));
}

template <class T>
using TotalOf = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

/// totals[i] = the members' in[i] in rank order, sums in f32 for bf16.
template <class T>
std::vector<TotalOf<T>> reduced(Meeting& meeting) {
  using Total = TotalOf<T>;
  const ReduceOp op = meeting.call(0).op;
  const T* first = meeting.call(0).in.template data<T>();
  std::vector<Total> totals(first, first + meeting.call(0).in.size());
  for (int p = 1; p < meeting.size(); ++p) {
    const T* x = meeting.call(p).in.template data<T>();
    for (std::size_t i = 0; i < totals.size(); ++i)
      totals[i] = op == ReduceOp::sum ? totals[i] + Total(x[i]) : std::max(totals[i], Total(x[i]));
  }
  return totals;
}

/// Reduces the members' `in` and gives each of them what it has room for, from `first(rank)` on.
template <class First>
void reduce_to(Meeting& meeting, First first) {
  const auto as = [&]<class T>(T) {
    const std::vector<TotalOf<T>> totals = reduced<T>(meeting);
    for (int p = 0; p < meeting.size(); ++p) {
      const Tensor& out = meeting.call(p).out;
      const auto part = totals.begin() + first(p);
      if (out.dtype() == dtype_of<T>)
        std::transform(part, part + out.size(), out.data<T>(), [](auto x) { return T(x); });
      else
        std::copy_n(part, out.size(), out.data<TotalOf<T>>());
    }
  };
  const DType dtype = meeting.call(0).in.dtype();
  dtype == DType::i64 ? as(std::int64_t{}) : for_float(dtype, as);
}

void perform_all_reduce(Meeting& meeting) {
  reduce_to(meeting, [](int) { return std::int64_t{0}; });
}

void perform_reduce_scatter(Meeting& meeting) {
  const std::vector<std::int64_t>& parts = meeting.call(0).send_rows;
  reduce_to(meeting, [&](int p) {
    return std::accumulate(parts.begin(), parts.begin() + p, std::int64_t{0});
  });
}

void perform_all_gather(Meeting& meeting) {
  for (int to = 0; to < meeting.size(); ++to) {
    std::int64_t first = 0;
    for (int p = 0; p < meeting.size(); ++p) {
      const Tensor& in = meeting.call(p).in;
      copy(element(meeting.call(to).out, first), in.bytes(), in.size(), in.dtype());
      first += in.size();
    }
  }
}

void perform_all_to_all(Meeting& meeting) {
  const int size = meeting.size();
  std::vector<std::int64_t> taken(std::size_t(size), 0);  // rows of each sender's `in`
  for (int to = 0; to < size; ++to) {
    std::int64_t row = 0;
    for (int p = 0; p < size; ++p) {
      const Call &sender = meeting.call(p), &receiver = meeting.call(to);
      const std::int64_t sent = sender.send_rows[std::size_t(to)];
      const std::int64_t expected = receiver.recv_rows[std::size_t(p)];
      const std::int64_t cols = sender.in.cols();
      if (sent == expected)
        copy(element(receiver.out, row * cols), element(sender.in, taken[std::size_t(p)] * cols),
             sent * cols, sender.in.dtype());
      else
        meeting.errors[std::size_t(p)] = meeting.errors[std::size_t(to)] =
            rows_disagree(meeting.world_ranks[std::size_t(p)], sent,
                          meeting.world_ranks[std::size_t(to)], expected);
      row += expected;
      taken[std::size_t(p)] += sent;
    }
  }
}

void perform_broadcast(Meeting& meeting) {
  const Tensor& from = meeting.call(meeting.call(0).root).in;
  for (int p = 0; p < meeting.size(); ++p)
    if (p != meeting.call(0).root)
      copy(meeting.call(p).out.bytes(), from.bytes(), from.size(), from.dtype());
}

void perform_barrier(Meeting&) {}

void perform_split(Meeting& meeting, const std::shared_ptr<Job>& job) {
  std::map<int, std::vector<std::pair<int, int>>> by_color;  // (key, rank), sorted below
  for (int p = 0; p < meeting.size(); ++p)
    by_color[meeting.call(p).color].emplace_back(meeting.call(p).key, p);
  meeting.places.resize(std::size_t(meeting.size()));
  for (auto& [color, members] : by_color) {
    std::ranges::sort(members);
    const auto group = std::make_shared<Group>(Group{job, {}, {}});
    for (const auto& [key, p] : members) {
      meeting.places[std::size_t(p)] = {group, int(group->world_ranks.size())};
      group->world_ranks.push_back(meeting.world_ranks[std::size_t(p)]);
    }
  }
}

/// Two members that called different things, in words; empty when all agree.
std::string disagreement(Meeting& meeting) {
  for (int p = 1; p < meeting.size(); ++p)
    if (meeting.call(p).what != meeting.call(0).what)
      return str("rank ", meeting.world_ranks[0], " called ", meeting.call(0).what, ", rank ",
                 meeting.world_ranks[std::size_t(p)], " called ", meeting.call(p).what);
  return {};
}

void perform(Meeting& meeting, const std::shared_ptr<Job>& job) {
  std::string error = disagreement(meeting);
  try {
    if (error.empty() && meeting.call(0).perform != nullptr)
      meeting.call(0).perform(meeting);
    else if (error.empty())
      perform_split(meeting, job);
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  if (!error.empty()) std::ranges::fill(meeting.errors, error);
}

class ThreadOperation final : public Pending::Operation {
 public:
  ThreadOperation(std::shared_ptr<Job> job, std::shared_ptr<Meeting> meeting, int rank,
                  std::string what, std::unique_ptr<CollectiveTicket> ticket)
      : job_(std::move(job)),
        meeting_(std::move(meeting)),
        rank_(rank),
        what_(std::move(what)),
        ticket_(std::move(ticket)) {}

  bool test() override {
    std::unique_lock lock(job_->mutex);
    if (!settled()) return false;
    check();
    return true;
  }

  void wait() override {
    WaitingScope waiting;
    std::unique_lock lock(job_->mutex);
    job_->changed.wait(lock, [this] { return settled(); });
    check();
  }

 private:
  bool settled() const { return meeting_->done || !job_->failure.empty() || deserter() >= 0; }

  /// The world rank of a member that has ended without joining, or -1.
  int deserter() const {
    for (std::size_t p = 0; p < meeting_->calls.size(); ++p)
      if (!meeting_->calls[p] && job_->ended[std::size_t(meeting_->world_ranks[p])])
        return meeting_->world_ranks[p];
    return -1;
  }

  void check() const {
    ticket_->finish();
    if (meeting_->done) {
      const std::string& error = meeting_->errors[std::size_t(rank_)];
      if (!error.empty()) throw Error(error);
      return;
    }
    if (!job_->failure.empty()) throw Error(str(what_, " cannot finish: ", job_->failure));
    throw Error(str(what_, " cannot finish: rank ", deserter(), " has ended without joining it"));
  }

  std::shared_ptr<Job> job_;
  std::shared_ptr<Meeting> meeting_;
  int rank_;
  std::string what_;
  std::unique_ptr<CollectiveTicket> ticket_;
};

class ThreadComm final : public Communicator {
 public:
  ThreadComm(std::shared_ptr<Group> group, int rank) : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return int(group_->world_ranks.size()); }

  Pending all_reduce(Tensor x, ReduceOp op) override {
    check_all_reduce(x);
    Call call = of("all_reduce", x, perform_all_reduce);
    call.what += op == ReduceOp::sum ? " (sum)" : " (max)";
    call.op = op;
    call.in = call.out = std::move(x);
    return start("all_reduce", std::move(call)).first;
  }

  Pending reduce_scatter(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    check_reduce_scatter(out, in, parts, *this);
    Call call = of("reduce_scatter", in, perform_reduce_scatter);
    call.what += str(" in parts of ", join(parts, ", "));
    call.send_rows.assign(parts.begin(), parts.end());
    call.out = std::move(out);
    call.in = std::move(in);
    return start("reduce_scatter", std::move(call)).first;
  }

  Pending all_gather(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    check_all_gather(out, in, parts, *this);
    Call call = of("all_gather", out, perform_all_gather);
    call.what += str(" in parts of ", join(parts, ", "));
    call.out = std::move(out);
    call.in = std::move(in);
    return start("all_gather", std::move(call)).first;
  }

  Pending all_to_all(Tensor out, std::span<const std::int64_t> recv_rows, Tensor in,
                     std::span<const std::int64_t> send_rows, RowCounts) override {
    check_all_to_all(out, recv_rows, in, send_rows, size());
    Call call;
    call.what = str("all_to_all of rows of ", in.cols(), " ", name(in.dtype()));
    call.perform = perform_all_to_all;
    call.recv_rows.assign(recv_rows.begin(), recv_rows.end());
    call.send_rows.assign(send_rows.begin(), send_rows.end());
    call.out = std::move(out);
    call.in = std::move(in);
    return start("all_to_all", std::move(call)).first;
  }

  Pending broadcast(Tensor x, int root) override {
    check_broadcast(x, root, size());
    Call call = of("broadcast", x, perform_broadcast);
    call.what += str(" from rank ", root);
    call.root = root;
    call.in = call.out = std::move(x);
    return start("broadcast", std::move(call)).first;
  }

  Pending barrier() override {
    Call call;
    call.what = "barrier";
    call.perform = perform_barrier;
    return start("barrier", std::move(call)).first;
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    MOE_CHECK(color >= 0, "split with color ", color);
    Call call;
    call.what = "split";
    call.color = color;
    call.key = key;
    auto [pending, meeting] = start("split", std::move(call));
    pending.wait();
    auto& [group, rank] = meeting->places[std::size_t(rank_)];
    return std::make_unique<ThreadComm>(std::move(group), rank);
  }

  void progress() override {}

 private:
  static Call of(const char* operation, const Tensor& x, void (*perform)(Meeting&)) {
    Call call;
    call.what = str(operation, " of ", x.size(), " ", name(x.dtype()));
    call.perform = perform;
    return call;
  }

  std::pair<Pending, std::shared_ptr<Meeting>> start(const char* operation, Call call) {
    auto ticket = std::make_unique<CollectiveTicket>(
        operation,
        call.in.defined() ? std::int64_t(std::max(call.in.nbytes(), call.out.nbytes())) : 0);
    const std::int64_t number = next_++;
    const std::string what = call.what;
    Job& job = *group_->job;
    std::shared_ptr<Meeting> meeting;
    bool last = false;
    {
      std::lock_guard lock(job.mutex);
      if (!job.failure.empty()) throw Error(str(what, " cannot finish: ", job.failure));
      auto& entry = group_->meetings[number];
      if (entry == nullptr) entry = std::make_shared<Meeting>(*group_);
      meeting = entry;
      meeting->calls[std::size_t(rank_)] = std::move(call);
      last = ++meeting->joined == size();
      if (last) group_->meetings.erase(number);
    }
    if (last) {
      perform(*meeting, group_->job);
      std::vector<std::optional<Call>> calls;  // lets go of the tensors outside the lock
      std::lock_guard lock(job.mutex);
      meeting->done = true;
      meeting->calls.swap(calls);
      job.changed.notify_all();
    }
    return {Pending(std::make_unique<ThreadOperation>(group_->job, meeting, rank_, what,
                                                      std::move(ticket))),
            meeting};
  }

  std::shared_ptr<Group> group_;
  int rank_;
  std::int64_t next_ = 0;  // the same on every member, because all make the same calls
};

std::shared_ptr<Group> world_group(int size) {
  const auto group = std::make_shared<Group>(Group{std::make_shared<Job>(size), {}, {}});
  for (int r = 0; r < size; ++r) group->world_ranks.push_back(r);
  return group;
}

/// The failure of a rank with the rank in front, as the same kind of error.
std::exception_ptr with_rank(int rank, std::exception_ptr failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const InputError& error) {
    return std::make_exception_ptr(InputError(str("rank ", rank, ": ", error.what())));
  } catch (const std::exception& error) {
    return std::make_exception_ptr(Error(str("rank ", rank, ": ", error.what())));
  } catch (...) {
    return failure;
  }
}

std::string message_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an unknown exception";
  }
}

}  // namespace

void run_ranks(int size, const std::function<void(Communicator& world)>& body) {
  MOE_CHECK(size >= 1, "a world of ", size, " ranks");
  const auto group = world_group(size);
  Job& job = *group->job;
  std::exception_ptr first;
  const auto run = [&](int rank) {
    omp_set_num_threads(1);  // counts for this thread alone; the ranks are the parallelism
    std::exception_ptr failure;
    try {
      ThreadComm world(group, rank);
      body(world);
    } catch (...) {
      failure = with_rank(rank, std::current_exception());
    }
    std::lock_guard lock(job.mutex);
    job.ended[std::size_t(rank)] = true;
    if (failure != nullptr && first == nullptr) {
      first = failure;
      job.failure = message_of(failure);
    }
    job.changed.notify_all();
  };
  {
    std::vector<std::jthread> ranks;
    for (int rank = 0; rank < size; ++rank) ranks.emplace_back(run, rank);
  }
  if (first != nullptr) std::rethrow_exception(first);
}

std::unique_ptr<Communicator> single_rank() {
  return std::make_unique<ThreadComm>(world_group(1), 0);
}

}  // namespace moe
