// SPDX-License-Identifier: Apache-2.0
#include <climits>
#include <string>
#include <utility>

#include "comm/collective_checks.h"
#include "comm/mpi_tasks.h"

namespace moe {
namespace {

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

/// Counts first, then rows. When a sender and a receiver disagree, both know, leave these rows out
/// and fail at the end; all others get theirs, so nobody hangs.
class AllToAll final : public QueuedTask {
 public:
  AllToAll(std::shared_ptr<MpiGroup> group, const Tensor& out,
           std::span<const std::int64_t> recv_rows, const Tensor& in,
           std::span<const std::int64_t> send_rows, RowCounts counts)
      : QueuedTask(std::move(group), &MpiGroup::rows, "all_to_all",
                   std::int64_t(std::max(in.nbytes(), out.nbytes())), {out, in}),
        out_(out.bytes()),
        in_(in.bytes()),
        row_(in.cols(), in.dtype()),
        recv_(recv_rows),
        send_(send_rows) {
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

  bool post_next() override {
    if (posted_) {
      --rows_under_way;
      return false;
    }
    compare_counts();
    MPI_CHECK(MPI_Ialltoallv(in_, send_.counts.data(), send_.offsets.data(), row_.get(), out_,
                             recv_.counts.data(), recv_.offsets.data(), row_.get(), comm(), add()));
    ++rows_under_way;
    posted_ = true;
    return true;
  }

  void conclude() override {
    if (!disagreement_.empty()) throw Error(disagreement_);
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
  std::vector<std::int64_t> told_, heard_;  // by member: rows sent to it, rows expected from it
  std::string disagreement_;
  bool posted_ = false;
};

}  // namespace

std::shared_ptr<Task> all_to_all_task(std::shared_ptr<MpiGroup> group, const Tensor& out,
                                      std::span<const std::int64_t> recv_rows, const Tensor& in,
                                      std::span<const std::int64_t> send_rows, RowCounts counts) {
  return std::make_shared<AllToAll>(std::move(group), out, recv_rows, in, send_rows, counts);
}

}  // namespace moe
