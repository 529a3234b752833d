// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi_comm.h"

#include <mpi.h>

#include <algorithm>
#include <utility>

#include "comm/collective_checks.h"
#include "comm/collective_log.h"
#include "comm/mpi_tasks.h"

namespace moe {
namespace {

/// Elements of one MPI call; larger tensors are broadcast in pieces. MPI counts are ints, and
/// libraries multiply them by sizes in int here and there.
constexpr std::int64_t kPiece = std::int64_t{1} << 24;

/// Sums of at least so many bytes go as bulk; fewer are a matter of latency, not of rate.
constexpr std::size_t kBulkSumBytes = std::size_t{1} << 18;

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

class MpiComm final : public Communicator {
 public:
  explicit MpiComm(MPI_Comm owned) : group_(std::make_shared<MpiGroup>(owned)) {}

  int rank() const override { return group_->rank; }
  int size() const override { return group_->size; }

  // Small sums: Open MPI's non-blocking reductions follow a schedule (binomial tree or recursive
  // doubling) that is fixed by the number of ranks and bytes when they start. Operands are combined
  // in its order, whoever arrives first. In place it is a tree to one rank and back for any size,
  // twice the bytes of a large sum in parts.

  Pending all_reduce(Tensor x, ReduceOp op) override {
    check_all_reduce(x);
    if (op == ReduceOp::sum && size() > 1 && x.nbytes() >= kBulkSumBytes)
      return start_task(all_reduce_sum_task(group_, x));
    const auto task = make_task("all_reduce", {x});
    for_pieces(x, [&](std::byte* piece, int count) {
      MPI_CHECK(MPI_Iallreduce(MPI_IN_PLACE, piece, count, element_type(x.dtype()),
                               reduction(x.dtype(), op), group_->calls, task->add()));
    });
    return start_task(task);
  }

  Pending reduce_scatter(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    check_reduce_scatter(out, in, parts, *this);
    return start_task(reduce_scatter_task(group_, out, in, parts));
  }

  Pending all_gather(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    check_all_gather(out, in, parts, *this);
    return start_task(all_gather_task(group_, out, in, parts));
  }

  Pending all_to_all(Tensor out, std::span<const std::int64_t> recv_rows, Tensor in,
                     std::span<const std::int64_t> send_rows, RowCounts counts) override {
    check_all_to_all(out, recv_rows, in, send_rows, size());
    if (size() > 1)
      return start_task(all_to_all_task(group_, out, recv_rows, in, send_rows, counts));
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

  std::shared_ptr<MpiGroup> group_;
};

}  // namespace

std::unique_ptr<Communicator> mpi_world_communicator() {
  MPI_Comm world = MPI_COMM_NULL;
  MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &world));
  return std::make_unique<MpiComm>(world);
}

}  // namespace moe
