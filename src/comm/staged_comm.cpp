// SPDX-License-Identifier: Apache-2.0
#include "comm/staged_comm.h"

#include <utility>

#include "kernels/backend.h"

namespace moe {
namespace {

/// Ends with a copy of what arrived to where it belongs, by the thread that waits or tests.
class CopyBack final : public Pending::Operation {
 public:
  CopyBack(Pending pending, Tensor host, Tensor out)
      : pending_(std::move(pending)), host_(std::move(host)), out_(std::move(out)) {}

  bool test() override {
    if (!pending_.test()) return false;
    finish();
    return true;
  }
  void wait() override {
    pending_.wait();
    finish();
  }

 private:
  void finish() {
    if (host_.defined()) out_.copy_from(host_);
    host_ = out_ = {};
  }

  Pending pending_;
  Tensor host_, out_;
};

bool on_host(const Tensor& x) { return !x.defined() || x.device() == Device::cpu; }

Tensor host_like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype()); }

class StagedComm final : public Communicator {
 public:
  explicit StagedComm(Communicator& group) : group_(group) {}
  explicit StagedComm(std::unique_ptr<Communicator> group)
      : owned_(std::move(group)), group_(*owned_) {}

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }

  Pending all_reduce(Tensor x, ReduceOp op) override {
    return in_place(x, [&](const Tensor& host) { return group_.all_reduce(host, op); });
  }
  Pending reduce_scatter(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    return staged(out, in, [&](const Tensor& to, const Tensor& from) {
      return group_.reduce_scatter(to, from, parts);
    });
  }
  Pending all_gather(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    return staged(out, in, [&](const Tensor& to, const Tensor& from) {
      return group_.all_gather(to, from, parts);
    });
  }
  Pending all_to_all(Tensor out, std::span<const std::int64_t> recv_rows, Tensor in,
                     std::span<const std::int64_t> send_rows, RowCounts counts) override {
    return staged(out, in, [&](const Tensor& to, const Tensor& from) {
      return group_.all_to_all(to, recv_rows, from, send_rows, counts);
    });
  }
  Pending broadcast(Tensor x, int root) override {
    return in_place(x, [&](const Tensor& host) { return group_.broadcast(host, root); });
  }
  Pending barrier() override { return group_.barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return std::make_unique<StagedComm>(group_.split(color, key));
  }
  void progress() override { group_.progress(); }

 private:
  /// start(out, in) on host memory.
  template <class Start>
  Pending staged(const Tensor& out, const Tensor& in, Start start) const {
    if (on_host(out) && on_host(in)) return start(out, in);
    if (size() == 1) {
      if (out.dtype() != in.dtype()) {
        Tensor rounded = out;
        backend(out.device()).cast(rounded, in);
      } else if (out.bytes() != in.bytes()) {
        out.copy_from(in);
      }
      return {};
    }
    const Tensor host = host_like(out);
    Pending pending = start(host, in.to(Device::cpu));
    return Pending(std::make_unique<CopyBack>(std::move(pending), host, out));
  }
  template <class Start>
  Pending in_place(const Tensor& x, Start start) const {
    if (on_host(x)) return start(x);
    if (size() == 1) return {};
    const Tensor host = x.to(Device::cpu);
    Pending pending = start(host);
    return Pending(std::make_unique<CopyBack>(std::move(pending), host, x));
  }

  std::unique_ptr<Communicator> owned_;
  Communicator& group_;
};

}  // namespace

std::unique_ptr<Communicator> by_way_of_host_memory(Communicator& group) {
  return std::make_unique<StagedComm>(group);
}

}  // namespace moe
