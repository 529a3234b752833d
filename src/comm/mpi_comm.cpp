// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_comm.h"

#include <mpi.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <exception>
#include <numeric>
#include <utility>

#include "comm/collective_checks.h"
#include "comm/collective_log.h"
#include "comm/communicator.h"
#include "comm/ordered_sum.h"
#include "comm/progress.h"

namespace moe {
namespace {

/// Elements of one MPI call; larger tensors are reduced and broadcast in pieces. MPI counts are
/// ints, and libraries multiply them by sizes in int here and there.
constexpr std::int64_t kPiece = std::int64_t{1} << 24;

/// One group of ranks as MPI sees it. The payload of an all_to_all is posted when its counts have
/// arrived, so not at the same point of the program on every rank; MPI wants the same order on a
/// communicator, hence the second one, on which payloads follow each other in order of calls. The
/// next one begins when the last one is done: a link shared by all of them would deliver the first
/// as late as the last.
struct Group {
  explicit Group(MPI_Comm owned) : calls(owned) {
    MPI_CHECK(MPI_Comm_set_errhandler(calls, MPI_ERRORS_RETURN));
    MPI_CHECK(MPI_Comm_dup(calls, &payloads));
    MPI_CHECK(MPI_Comm_rank(calls, &rank));
    MPI_CHECK(MPI_Comm_size(calls, &size));
    std::vector<int> members(std::size_t(size), 0);
    std::iota(members.begin(), members.end(), 0);
    world_ranks.resize(members.size());
    MPI_Group group, world;
    MPI_CHECK(MPI_Comm_group(calls, &group));
    MPI_CHECK(MPI_Comm_group(MPI_COMM_WORLD, &world));
    MPI_CHECK(MPI_Group_translate_ranks(group, size, members.data(), world, world_ranks.data()));
    MPI_Group_free(&group);
    MPI_Group_free(&world);
  }
  ~Group() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized || std::uncaught_exceptions() > 0) return;
    MPI_Comm_free(&payloads);
    MPI_Comm_free(&calls);
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  MPI_Comm calls, payloads = MPI_COMM_NULL;
  int rank = 0, size = 1;
  std::vector<int> world_ranks;
  std::int64_t exchanges_started = 0, exchanges_done = 0;
};

/// Types as MPI moves them: bf16 and f16 as 16 bits.
MPI_Datatype element_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::i32:
      return MPI_INT32_T;
    case DType::i64:
      return MPI_INT64_T;
    case DType::u8:
      return MPI_UINT8_T;
    case DType::bf16:
    case DType::f16:
      return MPI_UINT16_T;
  }
  return MPI_BYTE;
}

void sum_bf16(void* in, void* inout, int* count, MPI_Datatype*) {
  const bf16* x = static_cast<const bf16*>(in);
  bf16* y = static_cast<bf16*>(inout);
  for (int i = 0; i < *count; ++i) y[i] = bf16(float(x[i]) + float(y[i]));
}

void max_bf16(void* in, void* inout, int* count, MPI_Datatype*) {
  const bf16* x = static_cast<const bf16*>(in);
  bf16* y = static_cast<bf16*>(inout);
  for (int i = 0; i < *count; ++i)
    if (float(x[i]) > float(y[i])) y[i] = x[i];
}

MPI_Op commutative(MPI_User_function* function) {
  MPI_Op op;
  MPI_CHECK(MPI_Op_create(function, 1, &op));
  return op;
}

MPI_Op reduction(DType dtype, ReduceOp op) {
  if (dtype != DType::bf16) return op == ReduceOp::sum ? MPI_SUM : MPI_MAX;
  static const MPI_Op sum = commutative(sum_bf16), max = commutative(max_bf16);
  return op == ReduceOp::sum ? sum : max;
}

/// `elements` in a row as one item, so that counts of items fit into an int.
class ItemType {
 public:
  ItemType(std::int64_t elements, DType dtype) {
    MOE_CHECK(elements <= INT_MAX, "rows of ", elements, " elements are more than MPI can count");
    MPI_CHECK(MPI_Type_contiguous(int(elements), element_type(dtype), &type_));
    MPI_CHECK(MPI_Type_commit(&type_));
  }
  ~ItemType() { MPI_Type_free(&type_); }
  ItemType(const ItemType&) = delete;
  ItemType& operator=(const ItemType&) = delete;
  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

/// A collective as MPI requests that are complete together, in one stage or several.
class MpiTask : public Task {
 public:
  MpiTask(std::shared_ptr<Group> group, const char* operation, std::int64_t bytes,
          std::vector<Tensor> tensors)
      : Task(operation, bytes, std::move(tensors)), group_(std::move(group)) {}

  /// A place for the request of one more MPI call.
  MPI_Request* add() { return &requests_.emplace_back(MPI_REQUEST_NULL); }

 protected:
  bool proceed() override { return requests_done() && !post_more(); }
  /// The next stage when all requests are complete; false when there is nothing left to do.
  virtual bool post_more() { return false; }

  const std::shared_ptr<Group> group_;

 private:
  bool requests_done() {
    while (!requests_.empty()) {
      int complete = 0;
      MPI_CHECK(MPI_Test(&requests_.back(), &complete, MPI_STATUS_IGNORE));
      if (!complete) return false;
      requests_.pop_back();
    }
    return true;
  }

  std::vector<MPI_Request> requests_;
};

/// Counts first, then rows. When a sender and a receiver disagree, both know, leave these rows out
/// and fail at the end; all others get theirs, so nobody hangs.
class AllToAll final : public MpiTask {
 public:
  AllToAll(std::shared_ptr<Group> group, const Tensor& out, std::span<const std::int64_t> recv_rows,
           const Tensor& in, std::span<const std::int64_t> send_rows, RowCounts counts)
      : MpiTask(std::move(group), "all_to_all", std::int64_t(std::max(in.nbytes(), out.nbytes())),
                {out, in}),
        out_(out.bytes()),
        in_(in.bytes()),
        row_(in.cols(), in.dtype()),
        recv_(recv_rows),
        send_(send_rows),
        turn_(group_->exchanges_started++) {
    if (counts == RowCounts::known) return;
    for (int p = 0; p < group_->size; ++p) {
      told_.push_back(send_rows[std::size_t(p)]);
      told_.push_back(recv_rows[std::size_t(p)]);
    }
    heard_.resize(told_.size());
    MPI_CHECK(MPI_Ialltoall(told_.data(), 2, MPI_INT64_T, heard_.data(), 2, MPI_INT64_T,
                            group_->calls, add()));
  }

 private:
  /// Rows to or from each member, as MPI takes them.
  struct Rows {
    explicit Rows(std::span<const std::int64_t> rows) {
      std::int64_t offset = 0;
      for (const std::int64_t n : rows) {
        counts.push_back(int(n));
        offsets.push_back(int(offset));
        offset += n;
      }
      MOE_CHECK(offset <= INT_MAX, "all_to_all of ", offset, " rows: at most ", INT_MAX);
    }
    std::vector<int> counts, offsets;
  };

  bool post_more() override {
    if (posted_) {
      ++group_->exchanges_done;
      if (!disagreement_.empty()) throw Error(disagreement_);
      return false;
    }
    if (group_->exchanges_done != turn_) return true;
    compare_counts();
    MPI_CHECK(MPI_Ialltoallv(in_, send_.counts.data(), send_.offsets.data(), row_.get(), out_,
                             recv_.counts.data(), recv_.offsets.data(), row_.get(),
                             group_->payloads, add()));
    posted_ = true;
    return true;
  }

  void compare_counts() {
    if (heard_.empty()) return;
    const int self = group_->world_ranks[std::size_t(group_->rank)];
    for (std::size_t p = 0; p < send_.counts.size(); ++p) {
      const int peer = group_->world_ranks[p];
      const std::int64_t sends = heard_[2 * p], expects = heard_[2 * p + 1];
      if (sends != recv_.counts[p]) {
        disagreement_ = rows_disagree(peer, sends, self, recv_.counts[p]);
        recv_.counts[p] = 0;
      }
      if (expects != send_.counts[p]) {
        disagreement_ = rows_disagree(self, send_.counts[p], peer, expects);
        send_.counts[p] = 0;
      }
    }
  }

  std::byte* out_;
  std::byte* in_;
  ItemType row_;
  Rows recv_, send_;
  const std::int64_t turn_;
  std::vector<std::int64_t> told_, heard_;  // by member: rows sent to it, rows expected from it
  std::string disagreement_;
  bool posted_ = false;
};

/// Every member's part of `in` goes to its owner, which adds them up in rank order: as many bytes
/// as a ring moves, sums that do not depend on MPI's algorithm, and bf16 that is rounded once.
class ReduceScatter final : public MpiTask {
 public:
  ReduceScatter(std::shared_ptr<Group> group, const Tensor& out, const Tensor& in,
                std::span<const std::int64_t> parts)
      : MpiTask(std::move(group), "reduce_scatter", std::int64_t(in.nbytes()), {out, in}),
        out_(out) {
    const int rank = group_->rank, size = group_->size;
    MOE_CHECK(in.size() <= INT_MAX && out.size() * (size - 1) <= INT_MAX, "reduce_scatter of ",
              in.size(), " elements: at most ", INT_MAX, " at a time");
    received_ = Tensor::empty({size - 1, out.size()}, in.dtype());
    std::int64_t sent = 0, place = 0;
    for (int p = 0; p < size; ++p) {
      const auto part = parts[std::size_t(p)];
      send_counts_.push_back(p == rank ? 0 : int(part));
      send_offsets_.push_back(int(sent));
      receive_counts_.push_back(p == rank ? 0 : int(out.size()));
      receive_offsets_.push_back(int(place * out.size()));
      summands_.push_back(p == rank ? in.view({in.size()}).slice(sent, part)
                                    : received_.slice(place, 1));
      place += p == rank ? 0 : 1;
      sent += part;
    }
    const MPI_Datatype type = element_type(in.dtype());
    MPI_CHECK(MPI_Ialltoallv(in.bytes(), send_counts_.data(), send_offsets_.data(), type,
                             received_.bytes(), receive_counts_.data(), receive_offsets_.data(),
                             type, group_->calls, add()));
  }

 private:
  bool post_more() override {
    if (summands_.empty()) return false;
    sum_in_order(out_, summands_);
    summands_.clear();
    received_ = {};
    return false;
  }

  Tensor out_, received_;
  std::vector<Tensor> summands_;
  std::vector<int> send_counts_, send_offsets_, receive_counts_, receive_offsets_;
};

class AllGather final : public MpiTask {
 public:
  AllGather(std::shared_ptr<Group> group, const Tensor& out, const Tensor& in,
            std::span<const std::int64_t> parts)
      : MpiTask(std::move(group), "all_gather", std::int64_t(out.nbytes()), {out, in}) {
    MOE_CHECK(out.size() <= INT_MAX, "all_gather of ", out.size(), " elements: at most ", INT_MAX,
              " at a time");
    std::int64_t first = 0;
    for (const std::int64_t n : parts) {
      counts_.push_back(int(n));
      offsets_.push_back(int(first));
      first += n;
    }
    const auto own = std::size_t(group_->rank);
    const bool in_place =
        in.bytes() == out.bytes() + std::size_t(offsets_[own]) * size_of(out.dtype());
    const MPI_Datatype type = element_type(in.dtype());
    MPI_CHECK(MPI_Iallgatherv(in_place ? MPI_IN_PLACE : in.bytes(), counts_[own], type, out.bytes(),
                              counts_.data(), offsets_.data(), type, group_->calls, add()));
  }

 private:
  std::vector<int> counts_, offsets_;
};

class MpiComm final : public Communicator {
 public:
  explicit MpiComm(MPI_Comm owned) : group_(std::make_shared<Group>(owned)) {}

  int rank() const override { return group_->rank; }
  int size() const override { return group_->size; }

  // Sums: Open MPI's non-blocking reductions follow a schedule (binomial tree, ring or recursive
  // doubling) that is fixed by the number of ranks and bytes when they start. Operands are combined
  // in its order, whoever arrives first.

  Pending all_reduce(Tensor x, ReduceOp op) override {
    check_all_reduce(x);
    const auto task = make_task("all_reduce", {x});
    for_pieces(x, [&](std::byte* piece, int count) {
      MPI_CHECK(MPI_Iallreduce(MPI_IN_PLACE, piece, count, element_type(x.dtype()),
                               reduction(x.dtype(), op), group_->calls, task->add()));
    });
    return start_task(task);
  }

  Pending reduce_scatter(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    check_reduce_scatter(out, in, parts, *this);
    return start_task(std::make_shared<ReduceScatter>(group_, out, in, parts));
  }

  Pending all_gather(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    check_all_gather(out, in, parts, *this);
    return start_task(std::make_shared<AllGather>(group_, out, in, parts));
  }

  Pending all_to_all(Tensor out, std::span<const std::int64_t> recv_rows, Tensor in,
                     std::span<const std::int64_t> send_rows, RowCounts counts) override {
    check_all_to_all(out, recv_rows, in, send_rows, size());
    if (size() > 1)
      return start_task(std::make_shared<AllToAll>(group_, out, recv_rows, in, send_rows, counts));
    const auto task = make_task("all_to_all", {out, in});  // the checks leave no room for others
    out.copy_from(in);
    return start_task(task);
  }

  Pending broadcast(Tensor x, int root) override {
    check_broadcast(x, root, size());
    const auto task = make_task("broadcast", {x});
    for_pieces(x, [&](std::byte* piece, int count) {
      MPI_CHECK(
          MPI_Ibcast(piece, count, element_type(x.dtype()), root, group_->calls, task->add()));
    });
    return start_task(task);
  }

  Pending barrier() override {
    const auto task = make_task("barrier", {});
    if (size() > 1) MPI_CHECK(MPI_Ibarrier(group_->calls, task->add()));
    return start_task(task);
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    MOE_CHECK(color >= 0, "split with color ", color);
    // MPI_Comm_split blocks: a member that entered it early could not move along a collective that
    // another still waits for.
    barrier().wait();
    CollectiveTicket ticket("split", 0);
    MPI_Comm part = MPI_COMM_NULL;
    MPI_CHECK(MPI_Comm_split(group_->calls, color, key, &part));
    return std::make_unique<MpiComm>(part);
  }

  void progress() override { progress_tasks(); }

 private:
  std::shared_ptr<MpiTask> make_task(const char* operation, std::vector<Tensor> tensors) {
    std::size_t bytes = 0;
    for (const Tensor& t : tensors) bytes = std::max(bytes, t.nbytes());
    return std::make_shared<MpiTask>(group_, operation, std::int64_t(bytes), std::move(tensors));
  }

  /// post(address, elements) for each piece of x; not at all in a group of one.
  template <class Post>
  void for_pieces(const Tensor& x, Post post) {
    for (std::int64_t first = 0; first < x.size() && size() > 1; first += kPiece)
      post(x.bytes() + std::size_t(first) * size_of(x.dtype()),
           int(std::min(kPiece, x.size() - first)));
  }

  std::shared_ptr<Group> group_;
};

}  // namespace

std::unique_ptr<Communicator> mpi_world_communicator() {
  MPI_Comm world = MPI_COMM_NULL;
  MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &world));
  return std::make_unique<MpiComm>(world);
}

}  // namespace moe
