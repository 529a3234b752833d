// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/tensor.h"

namespace moe {

enum class ReduceOp : std::uint8_t { sum, max };

/// Whether an all_to_all compares the row counts of senders and receivers before any row moves.
/// `known` is for callers that have the sender's own word for what they expect, and saves a message
/// to each member.
enum class RowCounts : std::uint8_t { compared, known };

/// A collective under way. wait() finishes it; until then its tensors belong to it: outputs must
/// not be read, inputs not written. Destroying an unfinished Pending waits, except while an
/// exception unwinds: peers may then never join.
class Pending {
 public:
  /// What a transport implements: test() moves the operation along and says whether it is done.
  class Operation {
   public:
    virtual ~Operation() = default;
    virtual bool test() = 0;
    virtual void wait() = 0;
  };

  Pending() = default;  // already done
  explicit Pending(std::unique_ptr<Operation> operation) : operation_(std::move(operation)) {}
  Pending(Pending&&) = default;
  Pending& operator=(Pending&& other);
  ~Pending();

  /// Throws Error when the collective failed: a peer's counts disagree, a peer is gone.
  void wait();
  bool test();

 private:
  std::unique_ptr<Operation> operation_;
};

/// A group of ranks that take part in collectives together.
///
/// Every member makes the same calls in the same order, even with zero rows; several may be under
/// way at once. A call starts the collective and returns; results are there after wait(). What is
/// under way moves on while the ranks compute. Sums add in an order that depends on sizes alone, so
/// repeated runs agree to the bit. Tensors are kept alive
/// until the collective is done.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// x = sum (or max) of x over the members, in place. f32, bf16, f64, i64.
  [[nodiscard]] virtual Pending all_reduce(Tensor x, ReduceOp op) = 0;
  /// out = this rank's part of the sum of `in`, whose elements belong to the members in rank order,
  /// parts[p] of them to member p. Adds up in rank order. out: in's type, or f32 for bf16, which is
  /// then rounded before the sum only; it may be this rank's part of `in`.
  [[nodiscard]] virtual Pending reduce_scatter(Tensor out, Tensor in,
                                               std::span<const std::int64_t> parts) = 0;
  /// out = the members' `in`, one after the other by rank, parts[p] elements from member p. `in`
  /// may be this rank's part of `out`.
  [[nodiscard]] virtual Pending all_gather(Tensor out, Tensor in,
                                           std::span<const std::int64_t> parts) = 0;
  /// The same with equal parts.
  [[nodiscard]] Pending reduce_scatter(Tensor out, Tensor in);
  [[nodiscard]] Pending all_gather(Tensor out, Tensor in);
  /// Rows of `in` go to the members in rank order, send_rows[p] to member p; `out` receives
  /// recv_rows[p] from member p, in rank order. Row counts are compared between sender and receiver
  /// before any payload moves, unless `counts` says that they agree; wait() throws Error naming
  /// both ranks when they disagree.
  [[nodiscard]] virtual Pending all_to_all(Tensor out, std::span<const std::int64_t> recv_rows,
                                           Tensor in, std::span<const std::int64_t> send_rows,
                                           RowCounts counts = RowCounts::compared) = 0;
  /// x = root's x.
  [[nodiscard]] virtual Pending broadcast(Tensor x, int root) = 0;
  [[nodiscard]] virtual Pending barrier() = 0;

  /// Members with the same color form a new group, ordered by key (then by rank). Collective.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

  /// Moves unfinished collectives along at once; cheap when there are none.
  virtual void progress() = 0;
};

/// Runs `body` on `size` threads, each a rank of one world in this process. When a rank throws, the
/// others' collectives fail, all threads end, and the first failure is rethrown with its rank.
void run_ranks(int size, const std::function<void(Communicator& world)>& body);

/// A world of one, without threads or MPI.
std::unique_ptr<Communicator> single_rank();

/// MPI_COMM_WORLD, initialised on construction (MPI_THREAD_MULTIPLE) and finalised on destruction.
/// At most one per process. Works without mpirun as a world of one.
class MpiWorld {
 public:
  MpiWorld(int* argc, char*** argv);
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  Communicator& world() { return *world_; }
  /// Ranks on this host, for the default number of threads per rank.
  int local_ranks() const { return local_ranks_; }
  /// This rank's number among them.
  int local_rank() const { return local_rank_; }
  /// Stands for this host: its lowest rank.
  int host() const { return host_; }
  /// Prints "rank R: reason" and ends every process of the job with `exit_code`.
  [[noreturn]] void abort(const std::string& reason, int exit_code);

 private:
  std::unique_ptr<Communicator> world_;
  int local_ranks_ = 1, local_rank_ = 0, host_ = 0;
};

}  // namespace moe
