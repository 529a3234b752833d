// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/rng.h"
#include "core/tensor.h"

namespace moe::test {

/// A float type and how far a kernel in it may be from the same formula in double, as
/// relative_error() measures.
struct Precision {
  DType dtype;
  double tolerance;
};
inline const std::vector<Precision> kPrecisions = {
    {DType::f64, 1e-12}, {DType::f32, 5e-7}, {DType::bf16, 3e-3}};
/// For kernels whose arguments are all accumulators.
inline const std::vector<Precision> kAccumulators = {{DType::f64, 1e-12}, {DType::f32, 5e-7}};

/// The values of a float or integer tensor, exactly.
inline std::vector<double> to_doubles(const Tensor& t) {
  std::vector<double> out(static_cast<std::size_t>(t.size()));
  const auto copy = [&]<class T>(T) {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<double>(t.data<T>()[i]);
  };
  switch (t.dtype()) {
    case DType::i32:
      copy(std::int32_t{});
      break;
    case DType::i64:
      copy(std::int64_t{});
      break;
    case DType::u8:
      copy(std::uint8_t{});
      break;
    default:
      for_float(t.dtype(), copy);
  }
  return out;
}

/// A float tensor of the values, rounded to its type.
inline Tensor from_doubles(Shape shape, DType dtype, const std::vector<double>& values) {
  Tensor t = Tensor::empty(std::move(shape), dtype);
  MOE_CHECK(t.size() == std::int64_t(values.size()));
  for_float(dtype, [&]<class T>(T) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if constexpr (std::is_same_v<T, double>)
        t.data<T>()[i] = values[i];
      else
        t.data<T>()[i] = T(static_cast<float>(values[i]));
    }
  });
  return t;
}

/// Normal numbers times `scale`; different for each seed, the same for each type up to rounding.
inline Tensor random_tensor(Shape shape, DType dtype, std::uint64_t seed, double scale = 1) {
  const Philox random(seed, RandomPurpose::test);
  Tensor t = Tensor::empty(std::move(shape), DType::f64);
  for (std::int64_t i = 0; i < t.size(); ++i)
    t.data<double>()[i] = scale * random.normal(std::uint64_t(i));
  return dtype == DType::f64 ? t : from_doubles(t.shape(), dtype, to_doubles(t));
}

/// NaN everywhere, large numbers for integers (-1 is an answer of many kernels): an output that must
/// be overwritten.
inline Tensor poisoned(const Shape& shape, DType dtype) {
  Tensor t = Tensor::empty(shape, dtype);
  if (t.nbytes() > 0) std::memset(t.bytes(), is_float(dtype) ? 0xFF : 0x5A, t.nbytes());
  return t;
}

/// Integers drawn from [low, high].
inline Tensor random_indices(Shape shape, std::int32_t low, std::int32_t high, std::uint64_t seed) {
  const Philox random(seed, RandomPurpose::test, {1});
  Tensor t = Tensor::empty(std::move(shape), DType::i32);
  for (std::int64_t i = 0; i < t.size(); ++i)
    t.data<std::int32_t>()[i] =
        low + std::int32_t(random.below(std::uint64_t(i), std::uint64_t(high - low) + 1));
  return t;
}

/// ||a - reference||_2 / ||reference||_2 (||a||_2 for a reference of zeros); NaN in a gives NaN.
inline double relative_error(const std::vector<double>& a, const std::vector<double>& reference) {
  MOE_CHECK(a.size() == reference.size(), a.size(), " values against ", reference.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - reference[i]) * (a[i] - reference[i]);
    norm += reference[i] * reference[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}
inline double relative_error(const Tensor& a, const std::vector<double>& reference) {
  return relative_error(to_doubles(a), reference);
}

inline double max_abs_difference(const std::vector<double>& a, const std::vector<double>& b) {
  MOE_CHECK(a.size() == b.size(), a.size(), " values against ", b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::fabs(a[i] - b[i]);
    if (!(d <= largest)) largest = d;
  }
  return largest;
}

inline ::testing::AssertionResult near(const Tensor& a, const std::vector<double>& reference,
                                       double tolerance) {
  const double error = relative_error(a, reference);
  if (error <= tolerance) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << name(a.dtype()) << "[" << join(a.shape())
                                       << "] is off by " << error << ", allowed " << tolerance;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.bytes(), b.bytes(), a.nbytes()) == 0;
}

/// d loss / d x by central differences. x: f64, restored afterwards; `loss` reads it.
inline std::vector<double> central_differences(const Tensor& x, const std::function<double()>& loss,
                                               double step = 1e-5) {
  std::vector<double> gradient(static_cast<std::size_t>(x.size()));
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    double& entry = x.data<double>()[i];
    const double saved = entry;
    entry = saved + step;
    const double above = loss();
    entry = saved - step;
    const double below = loss();
    entry = saved;
    gradient[i] = (above - below) / (2 * step);
  }
  return gradient;
}

/// sum(a * b), the scalar that turns an output and its gradient into a loss.
inline double dot(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = to_doubles(a), y = to_doubles(b);
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

/// OpenMP's threads while the scope lives. One under the thread sanitizer, which cannot see the
/// barriers of an OpenMP runtime that was not built with it.
class OpenMpThreads {
 public:
  explicit OpenMpThreads(int threads) : before_(omp_get_max_threads()) {
#ifdef __SANITIZE_THREAD__
    threads = 1;
#endif
    omp_set_num_threads(threads);
  }
  ~OpenMpThreads() { omp_set_num_threads(before_); }
  OpenMpThreads(const OpenMpThreads&) = delete;
  OpenMpThreads& operator=(const OpenMpThreads&) = delete;

 private:
  int before_;
};

/// Runs `compute` on one thread and on two: both must give the same bits, and so must a repeat.
inline void expect_same_bits_on_any_threads(const std::function<std::vector<Tensor>()>& compute) {
  std::vector<std::vector<Tensor>> runs;
  for (const int threads : {1, 2, 2}) {
    const OpenMpThreads scope(threads);
    runs.push_back(compute());
  }
  for (std::size_t i = 0; i < runs[0].size(); ++i) {
    EXPECT_TRUE(same_bits(runs[0][i], runs[1][i])) << "output " << i << ": 1 thread against 2";
    EXPECT_TRUE(same_bits(runs[1][i], runs[2][i])) << "output " << i << ": repeated on 2 threads";
  }
}

/// New memory is filled with NaN while the scope lives.
class PoisonedMemory {
 public:
  PoisonedMemory() { poison_new_memory(true); }
  ~PoisonedMemory() { poison_new_memory(false); }
  PoisonedMemory(const PoisonedMemory&) = delete;
  PoisonedMemory& operator=(const PoisonedMemory&) = delete;
};

}  // namespace moe::test
