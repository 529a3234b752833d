// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "kernels/backend.h"

/// Matrix products as plain loops in f64, and what comparing with them needs.
namespace moe::reference {

inline Tensor from_doubles(const Shape& shape, DType dtype, const std::vector<double>& values) {
  Tensor t = Tensor::empty(shape, dtype);
  for_float(dtype, [&]<class T>(T) {
    for (std::int64_t i = 0; i < t.size(); ++i)
      t.data<T>()[i] = T(static_cast<std::conditional_t<std::is_same_v<T, double>, double, float>>(
          values[std::size_t(i)]));
  });
  return t;
}

inline std::vector<double> to_doubles(const Tensor& t) {
  std::vector<double> values(std::size_t(t.size()));
  for_float(t.dtype(), [&]<class T>(T) {
    for (std::int64_t i = 0; i < t.size(); ++i) values[std::size_t(i)] = double(t.data<T>()[i]);
  });
  return values;
}

/// Standard normal numbers times `scale`, rounded to `dtype`.
inline Tensor random_tensor(const Shape& shape, DType dtype, std::uint64_t seed,
                            double scale = 1.0) {
  const Philox random(seed, RandomPurpose::test);
  std::int64_t size = 1;
  for (const std::int64_t d : shape) size *= d;
  std::vector<double> values(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = scale * random.normal(i);
  return from_doubles(shape, dtype, values);
}

/// NaN everywhere: an output that must be overwritten.
inline Tensor poisoned(const Shape& shape, DType dtype) {
  Tensor t = Tensor::empty(shape, dtype);
  if (t.nbytes() > 0) std::memset(t.bytes(), 0xFF, t.nbytes());
  return t;
}

/// ||got - want|| / ||want||; NaN in either is NaN, so that a comparison fails.
inline double relative_error(const Tensor& got, const std::vector<double>& want) {
  const std::vector<double> values = to_doubles(got);
  if (values.size() != want.size()) return NAN;
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += (values[i] - want[i]) * (values[i] - want[i]);
    norm += want[i] * want[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() &&
         (a.nbytes() == 0 || std::memcmp(a.bytes(), b.bytes(), a.nbytes()) == 0);
}

/// op(a) op(b) + addend; op(a): [m, k], op(b): [k, n]. An empty addend is zero.
inline std::vector<double> product(std::span<const double> a, bool transpose_a,
                                   std::span<const double> b, bool transpose_b, std::int64_t m,
                                   std::int64_t n, std::int64_t k,
                                   const std::vector<double>& addend = {}) {
  std::vector<double> c(static_cast<std::size_t>(m * n));
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = addend.empty() ? 0.0 : addend[std::size_t(i * n + j)];
      for (std::int64_t p = 0; p < k; ++p)
        sum += a[std::size_t(transpose_a ? p * m + i : i * k + p)] *
               b[std::size_t(transpose_b ? j * k + p : p * n + j)];
      c[std::size_t(i * n + j)] = sum;
    }
  return c;
}

}  // namespace moe::reference
