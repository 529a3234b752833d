// SPDX-License-Identifier: Apache-2.0
#include "comm/hierarchical_comm.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "comm/collective_checks.h"
#include "comm/progress.h"
#include "core/log.h"

namespace moe {
namespace {

using Counts = std::vector<std::int64_t>;

/// The legs of an exchange in the order they are taken. Each has a communicator of its own, because
/// several exchanges may be under way, and get to their next leg at different points of the program
/// on different ranks; on each communicator they follow each other in order of calls.
enum Leg : std::size_t { counts_between, counts_within, rows_between, rows_within, kLegs };

struct Roads {
  Roads(std::unique_ptr<Communicator> group, int ranks, std::span<const int> world_ranks)
      : flat(std::move(group)),
        ranks_per_host(ranks),
        hosts(flat->size() / ranks),
        members(world_ranks.begin(), world_ranks.end()) {
    const int host = flat->rank() / ranks, place = flat->rank() % ranks;
    for (const Leg leg : {counts_between, rows_between}) legs[leg] = flat->split(place, host);
    for (const Leg leg : {counts_within, rows_within}) legs[leg] = flat->split(host, place);
  }

  std::unique_ptr<Communicator> flat;
  int ranks_per_host, hosts;
  std::vector<int> members;  // their world ranks
  std::array<std::unique_ptr<Communicator>, kLegs> legs;
  std::array<std::int64_t, kLegs> taken = {};  // exchanges that have posted each leg
  std::int64_t started = 0;
  bool broken = false;  // an exchange ended before its last leg: those behind it never get theirs
};

/// Blocks of rows one after the other: rows[from][to] of them for each pair.
struct Blocks {
  Blocks(int from, int to) : inner(to), rows(std::size_t(from * to), 0) {}
  std::int64_t& at(int i, int j) { return rows[std::size_t(i * inner + j)]; }
  std::int64_t at(int i, int j) const { return rows[std::size_t(i * inner + j)]; }
  /// Row sums.
  Counts sums() const {
    Counts totals(rows.size() / std::size_t(inner), 0);
    for (std::size_t b = 0; b < rows.size(); ++b) totals[b / std::size_t(inner)] += rows[b];
    return totals;
  }
  Blocks transposed() const {
    Blocks t(inner, int(rows.size()) / inner);
    for (int i = 0; i < t.inner; ++i)
      for (int j = 0; j < inner; ++j) t.at(j, i) = at(i, j);
    return t;
  }

  int inner;
  Counts rows;
};

class Exchange final : public Task {
 public:
  Exchange(std::shared_ptr<Roads> roads, const Tensor& out, std::span<const std::int64_t> recv_rows,
           const Tensor& in, std::span<const std::int64_t> send_rows)
      : Task("all_to_all by way of hosts", std::int64_t(std::max(in.nbytes(), out.nbytes())),
             {out, in}),
        roads_(std::move(roads)),
        out_(out),
        in_(in),
        send_(send_rows.begin(), send_rows.end()),
        recv_(recv_rows.begin(), recv_rows.end()),
        relayed_(roads_->hosts, roads_->ranks_per_host),
        arriving_(roads_->ranks_per_host, roads_->hosts),
        turn_(roads_->started++) {}

 private:
  bool proceed() override {
    MOE_CHECK(!roads_->broken, "all_to_all: an earlier exchange of this group failed");
    try {
      while (under_way_.test()) {
        if (leg_ == kLegs) {
          deliver();
          return true;
        }
        if (roads_->taken[leg_] != turn_) return false;
        under_way_ = take(Leg(leg_));
        ++roads_->taken[leg_++];
      }
    } catch (const Error&) {
      if (leg_ < kLegs) roads_->broken = true;
      throw;
    }
    return false;
  }

  Pending take(Leg leg) {
    switch (leg) {
      case counts_between: {
        // For each rank of a host: rows that go there, rows that are expected from there.
        Counts told;
        for (std::size_t p = 0; p < send_.size(); ++p) {
          told.push_back(send_[p]);
          told.push_back(recv_[p]);
        }
        return exchange_counts(leg, told);
      }
      case counts_within: {
        const int ranks = roads_->ranks_per_host;
        Counts told;
        for (int l = 0; l < ranks; ++l)
          for (int h = 0; h < roads_->hosts; ++h) {
            const std::size_t pair = 2 * std::size_t(h * ranks + l);
            told.push_back(heard(pair));
            told.push_back(heard(pair + 1));
            relayed_.at(h, l) = heard(pair);
          }
        return exchange_counts(leg, told);
      }
      case rows_between: {
        compare_counts();
        Blocks leaving(roads_->hosts, roads_->ranks_per_host);
        leaving.rows = send_;
        relay_ = rows(relayed_.sums());
        return roads_->legs[leg]->all_to_all(relay_, relayed_.sums(), in_, leaving.sums(),
                                             RowCounts::known);
      }
      default: {
        const Blocks leaving = relayed_.transposed();
        const Tensor sorted = transposed_rows(relay_, relayed_);
        relay_ = rows(arriving_.sums());
        return roads_->legs[leg]->all_to_all(relay_, arriving_.sums(), sorted, leaving.sums(),
                                             RowCounts::known);
      }
    }
  }

  std::int64_t heard(std::size_t i) const { return heard_.data<std::int64_t>()[i]; }

  Pending exchange_counts(Leg leg, const Counts& told) {
    Communicator& group = *roads_->legs[leg];
    const Counts one(std::size_t(group.size()), 1);
    const Tensor in =
        Tensor::of<std::int64_t>({group.size(), std::int64_t(told.size()) / group.size()}, told);
    heard_ = empty_like(in);
    return group.all_to_all(heard_, one, in, one, RowCounts::known);
  }

  void compare_counts() {
    const int self = roads_->members[std::size_t(roads_->flat->rank())];
    for (int l = 0; l < roads_->ranks_per_host; ++l)
      for (int h = 0; h < roads_->hosts; ++h) {
        const auto p = std::size_t(h * roads_->ranks_per_host + l);
        const std::size_t pair = 2 * std::size_t(l * roads_->hosts + h);
        const std::int64_t sends = heard(pair), expects = heard(pair + 1);
        arriving_.at(l, h) = sends;
        if (sends != recv_[p])
          disagreement_ = rows_disagree(roads_->members[p], sends, self, recv_[p]);
        if (expects != send_[p])
          disagreement_ = rows_disagree(self, send_[p], roads_->members[p], expects);
      }
  }

  /// Puts what arrived by (rank, host) of the sender into the order of members. Rows of a sender
  /// that sent more or fewer than expected are left out.
  void deliver() {
    const auto row = std::size_t(out_.cols()) * size_of(out_.dtype());
    Counts begin(recv_.size() + 1, 0);
    std::partial_sum(recv_.begin(), recv_.end(), begin.begin() + 1);
    const std::byte* from = relay_.bytes();
    for (int l = 0; l < roads_->ranks_per_host; ++l)
      for (int h = 0; h < roads_->hosts; ++h) {
        const auto p = std::size_t(h * roads_->ranks_per_host + l);
        const std::size_t bytes = std::size_t(arriving_.at(l, h)) * row;
        if (arriving_.at(l, h) == recv_[p] && bytes > 0)
          std::memcpy(out_.bytes() + std::size_t(begin[p]) * row, from, bytes);
        from += bytes;
      }
    if (!disagreement_.empty()) throw Error(disagreement_);
  }

  Tensor rows(const Counts& counts) const {
    Shape shape = in_.shape();
    shape[0] = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
    return Tensor::empty(std::move(shape), in_.dtype());
  }

  /// x's blocks [i][j] as [j][i].
  Tensor transposed_rows(const Tensor& x, const Blocks& blocks) const {
    const auto row = std::size_t(x.cols()) * size_of(x.dtype());
    const Blocks target = blocks.transposed();
    Counts begin(target.rows.size() + 1, 0);
    std::partial_sum(target.rows.begin(), target.rows.end(), begin.begin() + 1);
    const Tensor y = empty_like(x);
    const std::byte* from = x.bytes();
    for (std::size_t b = 0; b < blocks.rows.size(); ++b) {
      const std::size_t i = b / std::size_t(blocks.inner), j = b % std::size_t(blocks.inner);
      const std::size_t bytes = std::size_t(blocks.rows[b]) * row;
      const auto to = begin[j * std::size_t(target.inner) + i];
      if (bytes > 0) std::memcpy(y.bytes() + std::size_t(to) * row, from, bytes);
      from += bytes;
    }
    return y;
  }

  std::shared_ptr<Roads> roads_;
  Tensor out_, in_;
  Counts send_, recv_;
  Blocks relayed_;   // [host of the sender][rank on this host] of what passes through this rank
  Blocks arriving_;  // [rank on its host][host] of the sender of what comes to this rank
  const std::int64_t turn_;
  std::size_t leg_ = 0;
  Pending under_way_;
  Tensor heard_, relay_;
  std::string disagreement_;
};

class HierarchicalComm final : public Communicator {
 public:
  explicit HierarchicalComm(std::shared_ptr<Roads> roads) : roads_(std::move(roads)) {}

  int rank() const override { return flat().rank(); }
  int size() const override { return flat().size(); }
  Pending all_reduce(Tensor x, ReduceOp op) override { return flat().all_reduce(x, op); }
  Pending reduce_scatter(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    return flat().reduce_scatter(out, in, parts);
  }
  Pending all_gather(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    return flat().all_gather(out, in, parts);
  }
  Pending all_to_all(Tensor out, std::span<const std::int64_t> recv_rows, Tensor in,
                     std::span<const std::int64_t> send_rows, RowCounts counts) override {
    // NCCL itself sends by way of the device with the same place on the other host.
    if (out.device() == Device::cuda)
      return flat().all_to_all(out, recv_rows, in, send_rows, counts);
    check_all_to_all(out, recv_rows, in, send_rows, size());
    return start_task(std::make_shared<Exchange>(roads_, out, recv_rows, in, send_rows));
  }
  Pending broadcast(Tensor x, int root) override { return flat().broadcast(x, root); }
  Pending barrier() override { return flat().barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return flat().split(color, key);
  }
  void progress() override { progress_tasks(); }

 private:
  Communicator& flat() const { return *roads_->flat; }

  std::shared_ptr<Roads> roads_;
};

}  // namespace

HostLayout host_layout(std::span<const int> hosts) {
  HostLayout layout;
  layout.hosts = int(std::set<int>(hosts.begin(), hosts.end()).size());
  layout.ranks_per_host = int(hosts.size()) / layout.hosts;
  const auto place = [&](std::size_t p) { return p / std::size_t(layout.ranks_per_host); };
  bool in_order = int(hosts.size()) % layout.hosts == 0;
  for (std::size_t p = 1; in_order && p < hosts.size(); ++p)
    in_order = (hosts[p] == hosts[p - 1]) == (place(p) == place(p - 1));
  if (layout.hosts == 1)
    layout.obstacle = "all its ranks are on one host";
  else if (int(hosts.size()) == layout.hosts)
    layout.obstacle = "it has one rank on each host";
  else if (!in_order)
    layout.obstacle =
        "hosts hold different numbers of its ranks, or ranks that do not follow each other (as "
        "mpirun --map-by slot places them)";
  return layout;
}

std::unique_ptr<Communicator> choose_all_to_all(std::unique_ptr<Communicator> group,
                                                AllToAll choice, int host, int world_rank) {
  if (choice == AllToAll::flat || group->size() == 1) return group;
  const Counts parts(std::size_t(group->size()), 2);
  Tensor all = Tensor::empty({2 * group->size()}, DType::i64);
  group->all_gather(all, Tensor::of<std::int64_t>({2}, {host, world_rank}), parts).wait();
  std::vector<int> hosts, members;
  for (int p = 0; p < group->size(); ++p) {
    hosts.push_back(int(all.data<std::int64_t>()[2 * p]));
    members.push_back(int(all.data<std::int64_t>()[2 * p + 1]));
  }
  const HostLayout layout = host_layout(hosts);
  if (layout.obstacle.empty()) {
    log_info("tokens travel by way of hosts: {} hosts with {} ranks of each expert group",
             layout.hosts, layout.ranks_per_host);
    return by_way_of_hosts(std::move(group), layout.ranks_per_host, members);
  }
  const bool several = layout.hosts > 1 && layout.hosts < group->size();
  if (log_rank() == 0 && (choice == AllToAll::hierarchical || several))
    log_warning("tokens travel from rank to rank, not by way of hosts: of an expert group, {}",
                layout.obstacle);
  return group;
}

std::unique_ptr<Communicator> by_way_of_hosts(std::unique_ptr<Communicator> group,
                                              int ranks_per_host, std::span<const int> members) {
  MOE_CHECK(ranks_per_host >= 1 && group->size() % ranks_per_host == 0 &&
                members.size() == std::size_t(group->size()),
            "a group of ", group->size(), " ranks by way of hosts with ", ranks_per_host);
  return std::make_unique<HierarchicalComm>(
      std::make_shared<Roads>(std::move(group), ranks_per_host, members));
}

}  // namespace moe
