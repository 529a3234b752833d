// SPDX-License-Identifier: Apache-2.0
// NcclComm's own sources on devices and on an NCCL that stand in for the real ones.
#include "comm/nccl_comm.h"

#include <nccl.h>

#include <atomic>
#include <thread>

#include "comm/collective_log.h"
#include "comm/communicator_checks.h"
#include "comm/devices.h"
#include "comm/nccl/fake_device.h"
#include "comm/nccl/fake_nccl.h"
#include "comm/transport.h"
#include "core/cuda_device.h"

namespace moe {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// Large sums go in several pieces through so little scratch memory.
constexpr std::int64_t kScratch = 1 << 20;

/// Brings a result back from the device when it is there.
class FromDevice final : public Pending::Operation {
 public:
  FromDevice(Pending pending, Tensor host, Tensor device)
      : pending_(std::move(pending)), host_(std::move(host)), device_(std::move(device)) {}
  bool test() override {
    if (!pending_.test()) return false;
    host_.copy_from(device_);
    return true;
  }
  void wait() override {
    pending_.wait();
    host_.copy_from(device_);
  }

 private:
  Pending pending_;
  Tensor host_, device_;
};

/// A group of devices as one of hosts, so that it can be asked what every transport is asked: every
/// tensor lies on the device while it travels.
class ThroughDevice final : public Communicator {
 public:
  explicit ThroughDevice(std::unique_ptr<Communicator> group) : group_(std::move(group)) {}

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  Pending all_reduce(Tensor x, ReduceOp op) override {
    if (!x.defined()) return group_->all_reduce(x, op);
    const Tensor there = x.to(Device::cuda);
    return back(group_->all_reduce(there, op), x, there);
  }
  Pending reduce_scatter(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    const Tensor from = in.to(Device::cuda), to = twin(out, in, from);
    return back(group_->reduce_scatter(to, from, parts), out, to);
  }
  Pending all_gather(Tensor out, Tensor in, std::span<const std::int64_t> parts) override {
    const Tensor to = out.to(Device::cuda), from = twin(in, out, to);
    return back(group_->all_gather(to, from, parts), out, to);
  }
  Pending all_to_all(Tensor out, std::span<const std::int64_t> recv_rows, Tensor in,
                     std::span<const std::int64_t> send_rows, RowCounts counts) override {
    const Tensor to = out.to(Device::cuda);
    return back(group_->all_to_all(to, recv_rows, in.to(Device::cuda), send_rows, counts), out, to);
  }
  Pending broadcast(Tensor x, int root) override {
    const Tensor there = x.to(Device::cuda);
    return back(group_->broadcast(there, root), x, there);
  }
  Pending barrier() override { return group_->barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return std::make_unique<ThroughDevice>(group_->split(color, key));
  }
  void progress() override { group_->progress(); }

 private:
  static Pending back(Pending pending, const Tensor& host, const Tensor& device) {
    return Pending(std::make_unique<FromDevice>(std::move(pending), host, device));
  }
  /// x on the device; where it is a part of `whole`, the same part of `there`.
  static Tensor twin(const Tensor& x, const Tensor& whole, const Tensor& there) {
    const std::ptrdiff_t offset = x.bytes() - whole.bytes();
    if (x.dtype() != whole.dtype() || offset < 0 || offset >= std::ptrdiff_t(whole.nbytes()))
      return x.to(Device::cuda);
    return there.view({there.size()})
        .slice(offset / std::ptrdiff_t(size_of(x.dtype())), x.size())
        .view(x.shape());
  }

  std::unique_ptr<Communicator> group_;
};

/// Ranks with a device each, and a group of them.
void run_devices(int size, const std::function<void(Communicator& hosts, Communicator& group)>& f) {
  run_ranks(size, [&](Communicator& hosts) {
    fake::use_device(hosts.rank());
    const auto group = nccl_communicator(hosts, kScratch);
    f(hosts, *group);
  });
}

class NcclComm : public testing::TestWithParam<std::tuple<int, checks::Check>> {};

TEST_P(NcclComm, Does) {
  const int aborted = fake::aborted_communicators();
  run_ranks(std::get<0>(GetParam()), [](Communicator& hosts) {
    fake::use_device(hosts.rank());
    ThroughDevice world(nccl_communicator(hosts, kScratch));
    std::get<1>(GetParam()).run(world);
  });
  EXPECT_EQ(fake::open_communicators(), 0);
  EXPECT_EQ(fake::aborted_communicators(), aborted);
}

INSTANTIATE_TEST_SUITE_P(Devices, NcclComm,
                         testing::Combine(testing::Values(1, 2, 3, 4),
                                          testing::ValuesIn(checks::kChecks)),
                         [](const auto& test) {
                           return str(std::get<1>(test.param).name, "On", std::get<0>(test.param),
                                      "Ranks");
                         });

TEST(NcclComm, TensorsOfHostsTravelAsBefore) {
  run_devices(2, [](Communicator&, Communicator& group) {
    const Tensor x = Tensor::of<double>({1}, {double(1 + group.rank())});
    group.all_reduce(x, ReduceOp::sum).wait();
    EXPECT_EQ(*x.data<double>(), 3);
    const Tensor there = x.to(Device::cuda);
    EXPECT_THAT(checks::error_of([&] { group.all_gather(x, there).wait(); }),
                HasSubstr("all on cuda"));
  });
}

Tensor ones(std::int64_t n) {
  return checks::filled({n}, DType::f32, [](auto) { return 1; }).to(Device::cuda);
}

TEST(NcclComm, SumsAreMadeInRankOrder) {
  // ((2^24 + 1) + 1) - 2^24: each 1 is lost in f32 where it comes after 2^24, not among themselves.
  const std::vector<float> summands = {16777216.f, 1.f, 1.f, -16777216.f};
  run_devices(4, [&](Communicator&, Communicator& group) {
    const float own = summands[std::size_t(group.rank())];
    const Tensor small = Tensor::of<float>({1}, {own}).to(Device::cuda);
    group.all_reduce(small, ReduceOp::sum).wait();
    EXPECT_EQ(small.to(Device::cpu).data<float>()[0], 0.f);
    const Tensor in = Tensor::of<float>({4}, {own, own, own, own}).to(Device::cuda);
    const Tensor part = Tensor::empty({1}, DType::f32, Device::cuda);
    group.reduce_scatter(part, in).wait();
    EXPECT_EQ(part.to(Device::cpu).data<float>()[0], 0.f);
  });
}

/// The host goes on after wait(); what it gives to the compute stream does not.
TEST(NcclComm, WaitHoldsTheComputeStreamAndNotTheHost) {
  run_devices(2, [](Communicator& hosts, Communicator& group) {
    const checks::Exchange rows(group, DType::f32, 4, [](int from, int to) { return from + to; });
    const Tensor out = rows.out.to(Device::cuda), in = rows.in.to(Device::cuda);
    cuda::synchronize();
    group.all_to_all(out, rows.recv, in, rows.send, RowCounts::known).wait();  // starts NCCL
    cuda::synchronize();
    hosts.barrier().wait();
    if (hosts.rank() == 0) fake::pause(fake::kHighestPriority);
    hosts.barrier().wait();
    const Tensor again = Tensor::empty(out.shape(), DType::f32, Device::cuda);
    Pending pending = group.all_to_all(again, rows.recv, in, rows.send, RowCounts::known);
    EXPECT_FALSE(pending.test());
    EXPECT_GT(collective_summary().started, collective_summary().finished);
    pending.wait();
    hosts.barrier().wait();
    if (hosts.rank() == 0) fake::resume();
    EXPECT_EQ(checks::values(again.to(Device::cpu)), checks::values(rows.expected));
  });
}

TEST(NcclComm, RowsPassGradientsThatAreUnderWay) {
  run_devices(2, [](Communicator& hosts, Communicator& group) {
    const Tensor gradients = ones(400000);
    group.all_reduce(gradients, ReduceOp::sum).wait();  // starts NCCL
    cuda::synchronize();
    hosts.barrier().wait();
    if (hosts.rank() == 0) fake::pause(fake::kHighestPriority + 1);
    hosts.barrier().wait();
    Pending bulk = group.all_reduce(gradients, ReduceOp::sum);
    const checks::Exchange rows(group, DType::f32, 4, [](int, int) { return 3; });
    const Tensor out = rows.out.to(Device::cuda);
    group.all_to_all(out, rows.recv, rows.in.to(Device::cuda), rows.send, RowCounts::known).wait();
    EXPECT_EQ(checks::values(out.to(Device::cpu)), checks::values(rows.expected));
    EXPECT_FALSE(bulk.test());
    hosts.barrier().wait();
    if (hosts.rank() == 0) fake::resume();
    bulk.wait();
    EXPECT_EQ(gradients.to(Device::cpu).data<float>()[399999], 4.f);
  });
}

/// An exception lets go of a collective that is under way, and of its tensor: whoever gets that
/// memory next comes behind the collective.
TEST(NcclComm, MemoryOfACollectiveThatNobodyWaitsForIsFreeBehindIt) {
  run_devices(2, [](Communicator& hosts, Communicator& group) {
    group.all_reduce(ones(1000), ReduceOp::sum).wait();  // starts NCCL
    cuda::synchronize();
    hosts.barrier().wait();
    if (hosts.rank() == 0) fake::pause(fake::kHighestPriority);
    hosts.barrier().wait();
    const std::byte* lost = nullptr;
    try {
      const Tensor x = ones(1000);
      lost = x.bytes();
      const Pending unfinished = group.all_reduce(x, ReduceOp::sum);
      throw 7;
    } catch (int) {
    }
    const Tensor next = ones(1000);
    EXPECT_EQ(next.bytes(), lost);
    hosts.barrier().wait();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // time to write too early
    if (hosts.rank() == 0) fake::resume();
    hosts.barrier().wait();
    group.barrier().wait();
    cuda::synchronize();
    EXPECT_EQ(checks::values(next.to(Device::cpu)), std::vector<double>(1000, 1));
  });
}

/// Two ranks have started a sum that the third never joins.
TEST(NcclComm, ALostPeerEndsWhatIsUnderWayAndIsReported) {
  const int before = fake::aborted_communicators();
  std::atomic<int> reported{0};
  run_ranks(3, [&](Communicator& hosts) {
    fake::use_device(hosts.rank());
    const auto group = nccl_communicator(hosts, kScratch);
    group->all_reduce(ones(10), ReduceOp::sum).wait();
    cuda::synchronize();
    hosts.barrier().wait();
    if (hosts.rank() == 2) {
      fake::lose_rank(2);
    } else {
      const Tensor x = ones(10);
      const std::string error = checks::error_of([&] {
        group->all_reduce(x, ReduceOp::sum).wait();
        cuda::synchronize();  // hangs for ever without an abort
        group->all_reduce(Tensor::zeros({1}, DType::f64), ReduceOp::sum).wait();
      });
      EXPECT_THAT(error, AllOf(HasSubstr(str("rank ", hosts.rank(), ": all_reduce failed: ")),
                               HasSubstr("remote process exited"), HasSubstr("NCCL_DEBUG")));
      ++reported;
    }
    hosts.barrier().wait();
    if (hosts.rank() == 2) fake::lose_rank(-1);
  });
  EXPECT_EQ(reported, 2);
  EXPECT_GE(fake::aborted_communicators() - before, 2);
  EXPECT_EQ(fake::open_communicators(), 0);
}

TEST(NcclComm, ARankThatFailsAbortsWhatIsUnderWay) {
  const int before = fake::aborted_communicators();
  const std::string error = checks::error_of([&] {
    run_devices(2, [](Communicator& hosts, Communicator& group) {
      group.all_reduce(ones(10), ReduceOp::sum).wait();
      const Pending unfinished = group.all_reduce(ones(10), ReduceOp::sum);
      hosts.barrier().wait();
      throw Error("out of ideas");
    });
  });
  EXPECT_THAT(error, HasSubstr("out of ideas"));
  EXPECT_EQ(fake::aborted_communicators() - before, 2);
  EXPECT_EQ(fake::open_communicators(), 0);
}

/// What every rank is told when rank 1 differs.
void expect_refusal(const std::function<void()>& differ, const testing::Matcher<std::string>& text,
                    int ranks = 2) {
  std::atomic<int> refused{0};
  run_ranks(ranks, [&](Communicator& hosts) {
    fake::use_device(hosts.rank());
    if (hosts.rank() == 1) differ();
    EXPECT_THAT(checks::error_of([&] { nccl_communicator(hosts); }), text);
    fake::set_nccl_version(NCCL_VERSION_CODE);
    ++refused;
  });
  EXPECT_EQ(refused, ranks);
}

TEST(NcclBadInput, TwoRanksOnOneDeviceAreNamed) {
  expect_refusal([] { fake::set_bus_id("0000:00:00.0"); },
                 AllOf(HasSubstr("ranks 0 and 1 on host "),
                       HasSubstr("both use GPU 0000:00:00.0, which NCCL does not allow")));
}

TEST(NcclBadInput, ARankWithoutADeviceIsNamed) {
  expect_refusal([] { fake::set_device_count(0); },
                 AllOf(HasSubstr("rank 1 on host "),
                       HasSubstr("can use no GPU (no device is visible), rank 0 on host")));
}

TEST(NcclBadInput, RanksOfAHostThatSeeOtherDevicesAreNamed) {
  expect_refusal([] { fake::set_device_count(3); },
                 AllOf(HasSubstr("ranks 0 and 1 on host"), HasSubstr("see 8 and 3 GPUs")));
}

TEST(NcclBadInput, RanksWithDifferentLibrariesAreNamed) {
  expect_refusal([] { fake::set_nccl_version(NCCL_VERSION_CODE + 101); },
                 HasSubstr(str("rank 0 runs NCCL ", NCCL_MAJOR, ".", NCCL_MINOR, ".", NCCL_PATCH,
                               ", rank 1 ", NCCL_MAJOR, ".", NCCL_MINOR + 1)));
}

TEST(NcclBadInput, ALibraryOlderThanItsHeaderIsRefused) {
  run_ranks(1, [](Communicator& hosts) {
    fake::use_device(0);
    fake::set_nccl_version(22707);
    EXPECT_THAT(checks::error_of([&] { nccl_communicator(hosts); }),
                HasSubstr("the NCCL library here is 2.27.7, this was built with 2."));
    fake::set_nccl_version(NCCL_VERSION_CODE);
  });
}

TEST(NcclBadInput, AStartThatFailsSaysWhereToLook) {
  fake::refuse_start(true);
  run_devices(2, [](Communicator&, Communicator& group) {
    EXPECT_THAT(
        checks::error_of([&] { group.all_reduce(ones(10), ReduceOp::sum).wait(); }),
        AllOf(HasSubstr("unhandled system error (words of the fake)"), HasSubstr("NCCL_DEBUG")));
  });
  fake::refuse_start(false);
}

TEST(Transport, IsNcclWhereEachRankHasADeviceAndElseHostMemory) {
  for (const bool shared : {false, true})
    for (const Transport choice : {Transport::automatic, Transport::host})
      run_ranks(2, [&](Communicator& hosts) {
        fake::use_device(hosts.rank());
        if (shared) fake::set_bus_id("0000:00:00.0");
        const int before = fake::open_communicators();
        hosts.barrier().wait();
        const auto group = for_device(hosts, Device::cuda, choice);
        const Tensor x = ones(10);
        group->all_reduce(x, ReduceOp::sum).wait();
        EXPECT_EQ(x.to(Device::cpu).data<float>()[9], 2.f);
        hosts.barrier().wait();
        EXPECT_EQ(fake::open_communicators() > before, !shared && choice != Transport::host);
        hosts.barrier().wait();
      });
}

TEST(Transport, NcclThatIsAskedForRefusesASharedDevice) {
  run_ranks(2, [](Communicator& hosts) {
    fake::use_device(hosts.rank());
    fake::set_bus_id("0000:00:00.0");
    EXPECT_THAT(checks::error_of([&] { for_device(hosts, Device::cuda, Transport::nccl); }),
                AllOf(HasSubstr("ranks 0 and 1"), HasSubstr("set parallel.transport: host")));
    EXPECT_THAT(checks::error_of([&] { for_device(hosts, Device::cpu, Transport::nccl); }),
                HasSubstr("set run.device to cuda"));
  });
}

TEST(Devices, OfRanksThatAllSeeNoneAreFine) {
  run_ranks(3, [](Communicator& hosts) {
    fake::use_device(hosts.rank());
    fake::set_device_count(0);
    check_devices(hosts);
  });
}

}  // namespace
}  // namespace moe
