// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "core/tensor.h"

namespace moe {

/// Seconds of one call on the compute stream, between CUDA events: the median of `rounds` runs of
/// as many calls as take some milliseconds, after one to warm up.
double device_seconds(const std::function<void()>& work, int rounds = 9);

/// What the device can do, measured: bytes read and written by a copy of 2 GiB, and FLOP/s of a
/// bf16 product of 8192^3 random numbers by the backend's own product.
struct DeviceRates {
  double bytes_per_second, flops_per_second;
};
DeviceRates measure_device_rates();

/// Normal numbers on the device, of any floating-point type.
Tensor random_on_device(const Shape& shape, DType dtype);

/// An i32 tensor on the device.
Tensor indices_on_device(const Shape& shape, std::span<const std::int32_t> values);

}  // namespace moe
