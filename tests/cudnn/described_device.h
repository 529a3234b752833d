// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/error.h"
#include "kernels/cuda/cudnn_target.h"

namespace moe::test {

/// A device that does not have to exist, in the words of cuDNN 9.8 and later, with the resources of
/// an H100 (whose values were written down from its data sheet, not read from one) but for its
/// compute capability.
inline CudnnTarget described_device(int capability) {
  CudnnTarget target;
  target.capability = capability;
  target.description = str(
      R"({"maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
          "regsPerBlock": 65536, "multiProcessorCount": 132, "warpSize": 32,
          "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
          "reservedSharedMemoryPerBlock": 1024, "maxSharedMemoryPerSM": 233472,
          "maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024,
          "maxThreadsPerSM": 2048, "pciDeviceId": 9008, "isTccDriver": 0, "supportCoopLaunch": 1,
          "smClockRateKHz": 1980000, "memClockRateKHz": 2619000, "l2CacheSize": 52428800,
          "deviceName": "described", "driverVer": 13000, "cudaDeviceId": 0,
          "totalGlobalMem": 85017755648, "deviceVer": )",
      10 * capability, "}");
  return target;
}

}  // namespace moe::test
