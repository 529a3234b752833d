// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/tensor.h"

namespace moe {
namespace {

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
