// SPDX-License-Identifier: Apache-2.0
// Training on a device: the whole engine, its memory closed to everything but kernels and copies.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/staged_comm.h"
#include "train/parity_checks.h"

namespace moe {
namespace {

using namespace testing;

EngineOptions on_device(DType dtype) {
  EngineOptions o = parity_options(dtype);
  o.device = Device::cuda;
  o.zero = true;
  return o;
}

class DeviceTraining : public ::testing::TestWithParam<DType> {};

TEST_P(DeviceTraining, EqualsTheCpu) {
  EngineOptions options = on_device(GetParam());
  EngineOptions reference = options;
  reference.device = Device::cpu;
  const Outcome want = reference_outcome(parity_model(), reference);
  EXPECT_EQ(differences(run_job(*single_rank(), 1, parity_model(), options), want,
                        tolerance_of(GetParam())),
            "");
}

TEST_P(DeviceTraining, OfRanksThatShareADeviceEqualsOneProcess) {
  EngineOptions options = on_device(GetParam());
  EngineOptions reference = options;
  reference.device = Device::cpu;
  options.recompute = reference.recompute = Recompute::cheap;
  const Outcome want = reference_outcome(parity_model(), reference);
  for (const int ep : {1, 2})
    run_ranks(2, [&](Communicator& ranks) {
      const auto world = by_way_of_host_memory(ranks);
      EXPECT_EQ(differences(run_job(*world, ep, parity_model(), options, {.chunks = 2}), want,
                            tolerance_of(GetParam())),
                "")
          << "EP " << ep << ", rank " << world->rank();
    });
}

INSTANTIATE_TEST_SUITE_P(Types, DeviceTraining, ::testing::Values(DType::f64, DType::f32),
                         [](const auto& test) { return std::string(name(test.param)); });

TEST(DeviceMemoryDeathTest, IsClosedToHostCode) {
  const Tensor t = Tensor::of<float>({1}, {1}).to(Device::cuda);
  EXPECT_EQ(t.to(Device::cpu).data<float>()[0], 1);
  EXPECT_DEATH(t.data<float>()[0] = 2, "");
}

TEST(DeviceMemory, SaysWhatHoldsItWhenThereIsNoMore) {
  const MemoryScope scope(MemoryKind::weights);
  const Tensor weights = Tensor::empty({300 << 20}, DType::u8, Device::cuda);
  try {
    const MemoryScope more(MemoryKind::activations);
    Tensor::empty({800 << 20}, DType::u8, Device::cuda);
    FAIL() << "800 MB of the 724 that are left";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), ::testing::AllOf(::testing::HasSubstr("GPU out of memory"),
                                           ::testing::HasSubstr("for activations"),
                                           ::testing::HasSubstr("weights 315M"),
                                           ::testing::HasSubstr("batch.micro")));
  }
  EXPECT_EQ(memory_account(Device::cuda).live[std::size_t(MemoryKind::weights)], 300 << 20);
}

}  // namespace
}  // namespace moe
