// SPDX-License-Identifier: Apache-2.0
#include <nccl.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "comm/collective_checks.h"
#include "comm/devices.h"
#include "comm/nccl_calls.h"
#include "comm/nccl_comm.h"
#include "comm/nccl_links.h"
#include "comm/progress.h"
#include "comm/texts.h"
#include "core/cuda_device.h"
#include "kernels/cuda/ordered_sum.h"

namespace moe {
namespace {

bool on_host(const Tensor& x) { return !x.defined() || x.device() == Device::cpu; }

class NcclComm final : public Communicator {
 public:
  NcclComm(std::shared_ptr<NcclLinks> links, Communicator& host, std::vector<int> world_ranks)
      : links_(std::move(links)),
        host_(host),
        world_ranks_(std::move(world_ranks)),
        urgent_{links_->urgent, {}},
        bulk_{links_->bulk, {}} {}
  NcclComm(std::shared_ptr<NcclLinks> links, std::unique_ptr<Communicator> host,
           std::vector<int> world_ranks)
      : NcclComm(std::move(links), *host, std::move(world_ranks)) {
    owned_ = std::move(host);
  }
  ~NcclComm() override {
    for (const Road* road : {&urgent_, &bulk_})
      if (road->group != nullptr) links_->close(*road->group, road->link);
  }

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }

  Pending all_reduce(Tensor x, ReduceOp op) override {
    links_->check();
    if (on_host(x)) return host_.all_reduce(x, op);
    check_all_reduce(x, Device::cuda);
    if (size() == 1) return {};
    const bool small = fits_small_sum(links_->urgent, x, size());
    return start(small ? urgent_ : bulk_, "all_reduce", {x}, [&](const NcclCall& call) {
      if (op == ReduceOp::max) return nccl_max(call, x);
      if (small) return nccl_small_sum(call, x);
      std::vector<std::int64_t> parts;
      for (int p = 0; p < call.size; ++p) parts.push_back(share_of(x.size(), p, call.size).count);
      const Share own = share_of(x.size(), call.rank, call.size);
      const Tensor sum = x.view({x.size()}).slice(own.first, own.count);
      nccl_reduce_scatter(call, sum, x, parts);
      nccl_all_gather(call, x, sum, parts);
    });
  }

  Pending reduce_scatter(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    links_->check();
    if (on_host(out) && on_host(in)) return host_.reduce_scatter(out, in, parts);
    check_reduce_scatter(out, in, parts, *this, Device::cuda);
    if (size() == 1) {
      sum_on_stream(links_->compute, out, in, 0, {}, 1);
      return {};
    }
    return start(bulk_, "reduce_scatter", {out, in},
                 [&](const NcclCall& call) { nccl_reduce_scatter(call, out, in, parts); });
  }

  Pending all_gather(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    links_->check();
    if (on_host(out) && on_host(in)) return host_.all_gather(out, in, parts);
    check_all_gather(out, in, parts, *this, Device::cuda);
    if (size() == 1) return copied(out, in);
    return start(bulk_, "all_gather", {out, in},
                 [&](const NcclCall& call) { nccl_all_gather(call, out, in, parts); });
  }

  Pending all_to_all(Tensor out, std::span<const std::int64_t> recv_rows, Tensor in,
                     std::span<const std::int64_t> send_rows, RowCounts counts) override {
    links_->check();
    if (on_host(out) && on_host(in)) return host_.all_to_all(out, recv_rows, in, send_rows, counts);
    check_all_to_all(out, recv_rows, in, send_rows, size(), Device::cuda);
    if (size() == 1) return copied(out, in);
    std::vector<Share> received = shares_of(recv_rows), sent = shares_of(send_rows);
    std::string error;
    if (counts == RowCounts::compared) error = compare(received, sent);
    return start(
        urgent_, "all_to_all", {out, in},
        [&](const NcclCall& call) { nccl_exchange(call, out, received, in, sent); },
        std::move(error));
  }

  Pending broadcast(Tensor x, int root) override {
    links_->check();
    if (on_host(x)) return host_.broadcast(x, root);
    check_broadcast(x, root, size(), Device::cuda);
    if (size() == 1) return {};
    return start(bulk_, "broadcast", {x},
                 [&](const NcclCall& call) { nccl_broadcast(call, x, root); });
  }

  Pending barrier() override {
    links_->check();
    return host_.barrier();
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    links_->check();
    std::unique_ptr<Communicator> part = host_.split(color, key);
    const Tensor ranks = Tensor::empty({part->size()}, DType::i64);
    const std::int64_t own = world_ranks_[std::size_t(rank())];
    part->all_gather(ranks, Tensor::of<std::int64_t>({1}, {own})).wait();
    const auto* first = ranks.data<std::int64_t>();
    return std::make_unique<NcclComm>(links_, std::move(part),
                                      std::vector<int>(first, first + ranks.size()));
  }

  void progress() override { progress_tasks(); }

 private:
  /// This group on one of the links; made by the first collective that takes it.
  struct Road {
    NcclLink& link;
    std::shared_ptr<NcclGroup> group;
  };

  template <class Issue>
  Pending start(Road& road, const char* operation, std::vector<Tensor> tensors, Issue issue,
                std::string error = "") {
    if (road.group == nullptr) road.group = links_->open(host_);
    return NcclLinks::start(
        links_, road.link, road.group, operation, std::move(tensors),
        [&](ncclComm* comm, const NcclLink& link) {
          issue(NcclCall{comm, link, rank(), size()});
        },
        std::move(error));
  }

  /// A collective of one.
  static Pending copied(const Tensor& out, const Tensor& in) {
    if (out.bytes() != in.bytes()) out.view(in.shape()).copy_from(in);
    return {};
  }

  /// Tells every member how many rows it gets from this rank and how many are expected from it.
  /// Where two disagree, both leave these rows out, so that all others get theirs. Returns what
  /// they disagree about. Waits for all members.
  std::string compare(std::vector<Share>& received, std::vector<Share>& sent) const {
    const std::int64_t n = size();
    const std::vector<std::int64_t> one(std::size_t(n), 1);
    const Tensor told = Tensor::empty({n, 2}, DType::i64), heard = empty_like(told);
    for (std::int64_t p = 0; p < n; ++p) {
      told.data<std::int64_t>()[2 * p] = sent[std::size_t(p)].count;
      told.data<std::int64_t>()[2 * p + 1] = received[std::size_t(p)].count;
    }
    host_.all_to_all(heard, one, told, one, RowCounts::known).wait();
    std::string disagreement;
    const int self = world_ranks_[std::size_t(rank())];
    for (std::size_t p = 0; p < std::size_t(n); ++p) {
      const int peer = world_ranks_[p];
      const std::int64_t sends = heard.data<std::int64_t>()[2 * p];
      const std::int64_t expects = heard.data<std::int64_t>()[2 * p + 1];
      if (sends != received[p].count) {
        disagreement = rows_disagree(peer, sends, self, received[p].count);
        received[p].count = 0;
      }
      if (expects != sent[p].count) {
        disagreement = rows_disagree(self, sent[p].count, peer, expects);
        sent[p].count = 0;
      }
    }
    return disagreement;
  }

  const std::shared_ptr<NcclLinks> links_;
  std::unique_ptr<Communicator> owned_;
  Communicator& host_;
  const std::vector<int> world_ranks_;
  Road urgent_, bulk_;
};

std::string version_text(int code) {
  return str(code / 10000, ".", code / 100 % 100, ".", code % 100);
}

/// NCCL keeps what older headers were promised, so a newer library will do; its ranks must have the
/// same one.
void check_versions(Communicator& host) {
  int version = 0;
  NCCL_CHECK(ncclGetVersion(&version));
  MOE_REQUIRE(version / 10000 == NCCL_MAJOR && version / 100 >= NCCL_VERSION_CODE / 100,
              "the NCCL library here is ", version_text(version), ", this was built with ",
              version_text(NCCL_VERSION_CODE), ": put that one or a later ", NCCL_MAJOR,
              ".x first in LD_LIBRARY_PATH");
  const std::vector<std::string> versions = gather_texts(version_text(version), host);
  for (std::size_t r = 1; r < versions.size(); ++r)
    MOE_REQUIRE(versions[r] == versions[0], "rank 0 runs NCCL ", versions[0], ", rank ", r, " ",
                versions[r], ": give all ranks the same library");
}

}  // namespace

bool nccl_built() { return true; }

std::unique_ptr<Communicator> nccl_communicator(Communicator& host_group,
                                                std::int64_t scratch_bytes) {
  check_devices(host_group);
  if (!cuda_available()) throw Error(cuda::why_unavailable());
  check_versions(host_group);
  const std::string shared = shared_device(host_group);
  MOE_REQUIRE(shared.empty(), shared,
              ", which NCCL does not allow: start one rank per GPU, or set parallel.transport: "
              "host");
  std::vector<int> ranks(std::size_t(host_group.size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return std::make_unique<NcclComm>(std::make_shared<NcclLinks>(host_group.rank(), scratch_bytes),
                                    host_group, std::move(ranks));
}

}  // namespace moe
