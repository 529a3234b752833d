// SPDX-License-Identifier: Apache-2.0
// Training on several devices, whose streams run beside each other and beside the host, by NcclComm
// on an NCCL that stands in for the real one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/nccl/fake_device.h"
#include "comm/nccl/fake_nccl.h"
#include "comm/nccl_comm.h"
#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;

struct Layout {
  int ranks, ep;
  bool zero;
};

class NcclTraining : public ::testing::TestWithParam<Layout> {};

TEST_P(NcclTraining, EqualsOneProcess) {
  const auto [ranks, ep, zero] = GetParam();
  EngineOptions options = parity_options(DType::f32);
  options.zero = zero;
  EngineOptions reference = options;
  const Outcome want = reference_outcome(parity_model(), reference);
  options.device = Device::cuda;
  run_ranks(ranks, [&, ep = ep](Communicator& hosts) {
    fake::use_device(hosts.rank());
    const auto world = nccl_communicator(hosts, 1 << 20);
    EXPECT_EQ(differences(run_job(*world, ep, parity_model(), options, {.chunks = 2}), want,
                          tolerance_of(DType::f32)),
              "")
        << "EP " << ep << ", rank " << world->rank();
  });
  EXPECT_EQ(fake::open_communicators(), 0);
}

INSTANTIATE_TEST_SUITE_P(Layouts, NcclTraining,
                         ::testing::Values(Layout{2, 1, true}, Layout{2, 2, true},
                                           Layout{2, 1, false}, Layout{4, 2, true}),
                         [](const auto& test) {
                           return str(test.param.ranks, "Ranks", test.param.ep, "ShareExperts",
                                      test.param.zero ? "Sharded" : "");
                         });

}  // namespace
}  // namespace moe
