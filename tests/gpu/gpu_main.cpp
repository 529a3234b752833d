// SPDX-License-Identifier: Apache-2.0
// The main of tests that need a device: without one they are skipped, and say why in one line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "core/cuda_device.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;  // as ctest is told
  ::testing::InitGoogleMock(&argc, argv);
  if (!moe::cuda_available()) {
    std::printf("skipped: %s\n", moe::cuda::why_unavailable().c_str());
    return kSkipped;
  }
  std::printf("on %s\n", moe::cuda::device_name().c_str());
  return RUN_ALL_TESTS();
}
