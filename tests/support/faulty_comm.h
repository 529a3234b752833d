// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace moe::test {

/// A communicator that spoils results: spoil(operation, out, group size) is called when a
/// collective is done, on every rank of every group split from the first.
class FaultyComm final : public Communicator {
 public:
  using Spoil = std::function<void(const std::string& operation, const Tensor& out, int size)>;
  FaultyComm(Communicator& inner, Spoil spoil) : inner_(inner), spoil_(std::move(spoil)) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  Pending all_reduce(Tensor x, ReduceOp op) override {
    inner_.all_reduce(x, op).wait();
    spoil_("all_reduce", x, size());
    return {};
  }
  Pending reduce_scatter(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    inner_.reduce_scatter(out, in, parts).wait();
    spoil_("reduce_scatter", out, size());
    return {};
  }
  Pending all_gather(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    inner_.all_gather(out, in, parts).wait();
    spoil_("all_gather", out, size());
    return {};
  }
  Pending all_to_all(Tensor out, std::span<const std::int64_t> recv_rows, Tensor in,
                     std::span<const std::int64_t> send_rows, RowCounts counts) override {
    inner_.all_to_all(out, recv_rows, in, send_rows, counts).wait();
    spoil_("all_to_all", out, size());
    return {};
  }
  Pending broadcast(Tensor x, int root) override { return inner_.broadcast(x, root); }
  Pending barrier() override { return inner_.barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    std::unique_ptr<Communicator> part = inner_.split(color, key);
    Communicator& group = *part;
    auto faulty = std::make_unique<FaultyComm>(group, spoil_);
    faulty->owned_ = std::move(part);
    return faulty;
  }
  void progress() override { inner_.progress(); }

 private:
  Communicator& inner_;
  std::unique_ptr<Communicator> owned_;
  Spoil spoil_;
};

}  // namespace moe::test
