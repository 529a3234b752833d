// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <climits>
#include <utility>

#include "comm/mpi_tasks.h"
#include "comm/ordered_sum.h"
#include "comm/process_grid.h"

namespace moe {
namespace {

/// What a bulk collective sends to each member at a time: enough for the rate of the link, little
/// enough for rows not to wait long behind it.
constexpr std::int64_t kBulkPieceBytes = std::int64_t{1} << 20;

/// A collective whose tensor is cut into one part per member, moved in pieces: piece j is the j-th
/// share of every member's part. The next one is posted when the last one is there and no rows are
/// under way.
class BulkTask : public QueuedTask {
 protected:
  BulkTask(std::shared_ptr<MpiGroup> group, const char* operation, const Tensor& whole,
           std::span<const std::int64_t> parts, std::vector<Tensor> tensors)
      : QueuedTask(std::move(group), &MpiGroup::bulk, operation, std::int64_t(whole.nbytes()),
                   std::move(tensors)),
        type_(element_type(whole.dtype())) {
    MOE_CHECK(whole.size() <= INT_MAX, operation, " of ", whole.size(), " elements: at most ",
              INT_MAX, " at a time");
    std::int64_t first = 0;
    for (const std::int64_t n : parts) {
      parts_.push_back({first, n});
      first += n;
    }
    const std::int64_t piece = kBulkPieceBytes / std::int64_t(size_of(whole.dtype()));
    for (const Share& part : parts_) pieces_ = std::max(pieces_, (part.count + piece - 1) / piece);
  }

  bool post_next() final {
    if (posted_ > 0 && !finished_) {
      if (piece_there(posted_ - 1)) return true;
      finished_ = true;
    }
    if (posted_ == pieces_) return false;
    if (rows_under_way > 0) return true;
    finished_ = false;
    post_piece(posted_++);
    return true;
  }

  /// Posts what moves piece j.
  virtual void post_piece(std::int64_t j) = 0;
  /// What was posted for piece j is complete; true when that made it post more.
  virtual bool piece_there(std::int64_t j) = 0;

  /// Piece j of member p's part, as elements of the whole.
  Share piece_of(int p, std::int64_t j) const {
    const Share& part = parts_[std::size_t(p)];
    const Share share = share_of(part.count, int(j), int(pieces_));
    return {part.first + share.first, share.count};
  }
  /// Where this rank's part begins.
  std::int64_t own_first() const { return parts_[std::size_t(group_->rank)].first; }

  /// Every member sends its piece j of `in` to all, who keep it at its place in `whole`. `in`: this
  /// rank's part, which may lie in `whole`.
  void gather_piece(const Tensor& whole, const Tensor& in, std::int64_t j) {
    const Share own = piece_of(group_->rank, j);
    const Tensor sent = flat(in).slice(own.first - own_first(), own.count);
    const Tensor place = flat(whole).slice(own.first, own.count);
    if (sent.bytes() != place.bytes()) place.copy_from(sent);
    clear_exchange();
    // Seen from one element further on: Open MPI takes equal addresses for MPI_IN_PLACE.
    for (int p = 0; p < group_->size; ++p) add_member(p, {-1, own.count}, piece_of(p, j));
    exchange(sent.bytes() + size_of(sent.dtype()), whole.bytes());
  }

  /// Piece j of every member's part of `in` goes to its owner; sum_piece() adds up what came.
  void scatter_piece(const Tensor& in, std::int64_t j) {
    const int rank = group_->rank, size = group_->size;
    const Share own = piece_of(rank, j);
    if (!received_.defined() || received_.cols() < own.count)
      received_ = Tensor::empty({size - 1, own.count}, in.dtype());
    clear_exchange();
    summands_.clear();
    for (int p = 0; p < size; ++p) {
      const std::int64_t place = (p < rank ? p : p - 1) * own.count;
      add_member(p, piece_of(p, j), {place, own.count});
      summands_.push_back(p == rank ? flat(in).slice(own.first, own.count)
                                    : flat(received_).slice(place, own.count));
    }
    exchange(in.bytes(), received_.bytes());
  }
  /// out: this rank's part of the sum.
  void sum_piece(const Tensor& out, std::int64_t j) {
    const Share own = piece_of(group_->rank, j);
    sum_in_order(flat(out).slice(own.first - own_first(), own.count), summands_);
  }

  static Tensor flat(const Tensor& x) { return x.view({x.size()}); }

 private:
  void clear_exchange() {
    for (std::vector<int>* v : {&send_counts_, &send_offsets_, &receive_counts_, &receive_offsets_})
      v->clear();
  }
  /// What goes to member p, the next one, and what comes from it; nothing between a rank and
  /// itself.
  void add_member(int p, const Share& sent, const Share& received) {
    const bool self = p == group_->rank;
    send_counts_.push_back(self ? 0 : int(sent.count));
    send_offsets_.push_back(self ? 0 : int(sent.first));
    receive_counts_.push_back(self ? 0 : int(received.count));
    receive_offsets_.push_back(self ? 0 : int(received.first));
  }
  /// For gathers too: Open MPI 4's Iallgatherv uses one direction of a TCP link after the other.
  void exchange(const std::byte* sent, std::byte* received) {
    MPI_CHECK(MPI_Ialltoallv(sent, send_counts_.data(), send_offsets_.data(), type_, received,
                             receive_counts_.data(), receive_offsets_.data(), type_, comm(),
                             add()));
  }

  const MPI_Datatype type_;
  std::vector<Share> parts_;  // by member, of the whole
  std::int64_t pieces_ = 0, posted_ = 0;
  bool finished_ = false;  // the last posted piece
  Tensor received_;        // by other member: its summand of this rank's piece
  std::vector<Tensor> summands_;
  std::vector<int> send_counts_, send_offsets_, receive_counts_, receive_offsets_;
};

/// Every member's part of `in` goes to its owner, which adds them up in rank order: as many bytes
/// as a ring moves, sums that do not depend on MPI's algorithm, and bf16 that is rounded once.
class ReduceScatter final : public BulkTask {
 public:
  ReduceScatter(std::shared_ptr<MpiGroup> group, const Tensor& out, const Tensor& in,
                std::span<const std::int64_t> parts)
      : BulkTask(std::move(group), "reduce_scatter", in, parts, {out, in}), out_(out), in_(in) {}

 private:
  void post_piece(std::int64_t j) override { scatter_piece(in_, j); }
  bool piece_there(std::int64_t j) override {
    sum_piece(out_, j);
    return false;
  }

  const Tensor out_, in_;
};

class AllGather final : public BulkTask {
 public:
  AllGather(std::shared_ptr<MpiGroup> group, const Tensor& out, const Tensor& in,
            std::span<const std::int64_t> parts)
      : BulkTask(std::move(group), "all_gather", out, parts, {out, in}), out_(out), in_(in) {}

 private:
  void post_piece(std::int64_t j) override { gather_piece(out_, in_, j); }
  bool piece_there(std::int64_t) override { return false; }

  const Tensor out_, in_;
};

/// A large sum: each member adds up one part, and all gather the parts.
class AllReduceSum final : public BulkTask {
 public:
  AllReduceSum(std::shared_ptr<MpiGroup> group, const Tensor& x,
               std::span<const std::int64_t> parts)
      : BulkTask(std::move(group), "all_reduce", x, parts, {x}),
        x_(flat(x)),
        own_(x_.slice(own_first(), parts[std::size_t(group_->rank)])) {}

 private:
  void post_piece(std::int64_t j) override {
    summed_ = false;
    scatter_piece(x_, j);
  }
  bool piece_there(std::int64_t j) override {
    if (summed_) return false;
    sum_piece(own_, j);
    gather_piece(x_, own_, j);
    summed_ = true;
    return true;
  }

  const Tensor x_, own_;
  bool summed_ = false;  // the current piece, which is then gathered
};

}  // namespace

std::shared_ptr<Task> reduce_scatter_task(std::shared_ptr<MpiGroup> group, const Tensor& out,
                                          const Tensor& in, std::span<const std::int64_t> parts) {
  return std::make_shared<ReduceScatter>(std::move(group), out, in, parts);
}

std::shared_ptr<Task> all_gather_task(std::shared_ptr<MpiGroup> group, const Tensor& out,
                                      const Tensor& in, std::span<const std::int64_t> parts) {
  return std::make_shared<AllGather>(std::move(group), out, in, parts);
}

std::shared_ptr<Task> all_reduce_sum_task(std::shared_ptr<MpiGroup> group, const Tensor& x) {
  std::vector<std::int64_t> parts;
  for (int p = 0; p < group->size; ++p) parts.push_back(share_of(x.size(), p, group->size).count);
  return std::make_shared<AllReduceSum>(std::move(group), x, parts);
}

}  // namespace moe
