// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/dtype.h"
#include "core/parallel.h"

/// Compiles a function once for AVX-512, once for AVX2 and once for any x86-64 processor; the
/// loader picks. Everything it calls that can be inlined is, so lambdas passed to it are compiled
/// three times too. A template must be `static` or in an unnamed namespace. One plain version where
/// the compiler cannot do this, and under sanitizers, whose runtime starts after the loader picks.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define MOE_VECTORIZE \
  __attribute__((flatten, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
/// Where one body does not serve all of them: versions of a function, each marked with "arch=" and
/// one of these names or with "default", of which the loader picks.
#define MOE_VERSION(processor) __attribute__((flatten, target(processor)))
#else
#define MOE_VECTORIZE
#endif
#define MOE_INLINE __attribute__((always_inline)) inline

namespace moe {

/// Elements of light elementwise work that are worth handing to a thread, and as many rows.
inline constexpr std::int64_t kGrain = 32768;
inline std::int64_t row_grain(std::int64_t cols) {
  return std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, cols));
}

// ---- functions that vectorise: float by polynomials, double by the library --------------------

/// e^x = 2^n e^r with |r| <= ln 2 / 2: `fraction` is e^r and `shifted` holds n in its low bits, over
/// those of 1.5 * 2^23. Relative error below 2e-7 for |x| < 2^21.
struct ExpParts {
  float fraction;
  float shifted;
};
MOE_INLINE ExpParts exp_parts(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.9875691500e-4f;                                   // Cephes expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return {p * (r * r) + (r + 1.0f), shifted};
}

/// e^x with a relative error below 2e-7; 0, infinity and NaN as the library's.
MOE_INLINE float exp_of(float x) {
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  const ExpParts parts = exp_parts(x);
  // 2^n in two factors, so that results may be subnormal and n may be 128.
  const auto exponent =
      static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(parts.shifted) - 0x4B400000u);
  const std::int32_t half = exponent >> 1;
  const auto power = [](std::int32_t e) {
    return std::bit_cast<float>((static_cast<std::uint32_t>(e) + 127u) << 23);
  };
  return parts.fraction * power(half) * power(exponent - half);
}
MOE_INLINE double exp_of(double x) { return std::exp(x); }

/// e^x for x <= 0 and a little above, at half the cost of exp_of(): 2^n is one normal number. Values
/// below e^-87 stay there.
MOE_INLINE float exp_of_nonpositive(float x) {
  const ExpParts parts = exp_parts(x < -87.0f ? -87.0f : x);
  return parts.fraction *
         std::bit_cast<float>((std::bit_cast<std::uint32_t>(parts.shifted) + 127u) << 23);
}
MOE_INLINE double exp_of_nonpositive(double x) { return std::exp(x); }

/// log(1 + u) for u in [0, 1], as 2 artanh(u / (2 + u)).
MOE_INLINE float log1p_of(float u) {
  const float s = u / (2.0f + u), z = s * s;
  float p = 1.0f / 15;
  p = p * z + 1.0f / 13;
  p = p * z + 1.0f / 11;
  p = p * z + 1.0f / 9;
  p = p * z + 1.0f / 7;
  p = p * z + 1.0f / 5;
  p = p * z + 1.0f / 3;
  return 2.0f * s * (p * z + 1.0f);
}
MOE_INLINE double log1p_of(double u) { return std::log1p(u); }

MOE_INLINE float tanh_of(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;  // Cephes tanhf, for small arguments
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float small = p * z * x + x;
  const float large = std::copysign(1.0f - 2.0f / (exp_of(2.0f * std::fabs(x)) + 1.0f), x);
  return std::fabs(x) < 0.625f ? small : large;
}
MOE_INLINE double tanh_of(double x) { return std::tanh(x); }

/// The normal distribution function. Float: erfc by the Chebyshev fit of Numerical Recipes
/// (erfcc), absolute error below 3e-7.
MOE_INLINE float normal_cdf(float x) {
  const float a = std::fabs(x) * 0.70710678f;
  const float t = 1.0f / (1.0f + 0.5f * a);
  float p = 0.17087277f;
  p = p * t - 0.82215223f;
  p = p * t + 1.48851587f;
  p = p * t - 1.13520398f;
  p = p * t + 0.27886807f;
  p = p * t - 0.18628806f;
  p = p * t + 0.09678418f;
  p = p * t + 0.37409196f;
  p = p * t + 1.00002368f;
  p = p * t - 1.26551223f;
  const float tail = 0.5f * t * exp_of(p - a * a);
  return x > 0 ? 1.0f - tail : tail;
}
MOE_INLINE double normal_cdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }

template <class A>
MOE_INLINE A normal_density(A x) {
  return A(0.39894228040143267794) * exp_of(A(-0.5) * x * x);
}

/// 1 / (1 + e^-x)
template <class A>
MOE_INLINE A sigmoid(A x) {
  return A(1) / (A(1) + exp_of(-x));
}

// ---- loops -------------------------------------------------------------------------------------

/// f(i) for i in [begin, end), vectorised: what f(i) writes, no other f(j) may read.
template <class F>
MOE_VECTORIZE static void each(std::int64_t begin, std::int64_t end, F f) {
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) f(i);
}

/// The same on all threads.
template <class F>
void each_parallel(std::int64_t n, F f) {
  parallel_for(n, kGrain, [=](std::int64_t begin, std::int64_t end) { each(begin, end, f); });
}

/// The sum of f(i) over [begin, end): vector lanes in f's own type over blocks of 256 terms, the
/// blocks in double. f may write as in each().
template <class F>
MOE_VECTORIZE static double sum_of(std::int64_t begin, std::int64_t end, F f) {
  double total = 0;
  for (std::int64_t block = begin; block < end; block += 256) {
    const std::int64_t stop = std::min(end, block + 256);
    decltype(f(begin)) sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = block; i < stop; ++i) sum += f(i);
    total += double(sum);
  }
  return total;
}

/// The largest x[i], -infinity for n = 0. NaN is passed over.
template <class A>
MOE_VECTORIZE static A max_of(const A* x, std::int64_t n) {
  A largest = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

/// The largest of x[0, n) and the sum of e^(x - largest): their log-sum-exp is largest + log(sum).
/// NaN anywhere makes the sum NaN.
template <class A>
struct ExpSum {
  A largest;
  double sum;
};
template <class A>
ExpSum<A> exp_sum(const A* x, std::int64_t n) {
  const A largest = max_of(x, n);
  return {largest, sum_of(0, n, [=](std::int64_t j) { return exp_of(x[j] - largest); })};
}

}  // namespace moe
