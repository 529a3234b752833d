// SPDX-License-Identifier: Apache-2.0
#include "device_timer.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "bench_support.h"
#include "core/cuda_check.h"
#include "core/cuda_device.h"
#include "core/rng.h"
#include "kernels/backend.h"

namespace moe {
namespace {

class Event {
 public:
  Event() { CUDA_CHECK(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record() { CUDA_CHECK(cudaEventRecord(event_, cuda::compute_stream())); }
  double seconds_since(const Event& start) {
    CUDA_CHECK(cudaEventSynchronize(event_));
    float milliseconds = 0;
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start.event_, event_));
    return 1e-3 * double(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

double seconds_of_calls(const std::function<void()>& work, int calls) {
  Event start, end;
  start.record();
  for (int i = 0; i < calls; ++i) work();
  end.record();
  return end.seconds_since(start) / calls;
}

}  // namespace

double device_seconds(const std::function<void()>& work, int rounds) {
  constexpr double kLong = 4e-3;
  seconds_of_calls(work, 1);
  const double once = seconds_of_calls(work, 1);
  const int calls = std::clamp(int(std::ceil(kLong / once)), 1, 100);
  std::vector<double> seconds;
  for (int r = 0; r < rounds; ++r) seconds.push_back(seconds_of_calls(work, calls));
  return median(seconds);
}

DeviceRates measure_device_rates() {
  constexpr std::int64_t kBytes = std::int64_t{2} << 30, kSize = 8192;
  DeviceRates rates{};
  {
    const Tensor from = random_on_device({kBytes / 4}, DType::f32);
    const Tensor to = empty_like(from);
    rates.bytes_per_second = 2 * double(kBytes) / device_seconds([&] { to.copy_from(from); });
  }
  const Tensor a = random_on_device({kSize, kSize}, DType::bf16);
  const Tensor b = random_on_device({kSize, kSize}, DType::bf16);
  Tensor c = empty_like(a);
  const double seconds =
      device_seconds([&] { backend(Device::cuda).gemm(c, a, false, b, true, 0); });
  rates.flops_per_second = 2.0 * kSize * kSize * kSize / seconds;
  return rates;
}

Tensor random_on_device(const Shape& shape, DType dtype) {
  static std::uint64_t seed = 0;
  const std::vector<Philox> stream = {Philox(++seed, RandomPurpose::test)};
  Tensor wide = Tensor::empty(shape, accumulator(dtype), Device::cuda);
  backend(Device::cuda).normal(wide, stream);
  if (dtype == wide.dtype()) return wide;
  Tensor t = Tensor::empty(shape, dtype, Device::cuda);
  backend(Device::cuda).cast(t, wide);
  return t;
}

Tensor indices_on_device(const Shape& shape, std::span<const std::int32_t> values) {
  const Tensor t = Tensor::empty(shape, DType::i32);
  std::copy(values.begin(), values.end(), t.data<std::int32_t>());
  return t.to(Device::cuda);
}

}  // namespace moe
