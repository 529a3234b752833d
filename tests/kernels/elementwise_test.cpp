// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "kernels/backend.h"
#include "kernels/cpu/vectorize.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

constexpr std::int64_t kSize = 2 * kGrain + 37;  // three chunks, the last one ragged
constexpr double kInfinity = std::numeric_limits<double>::infinity();
const double kNaN = std::numeric_limits<double>::quiet_NaN();

Backend& cpu() { return backend(Device::cpu); }

std::vector<double> map(const std::vector<Tensor>& inputs,
                        const std::function<double(const std::vector<double>&)>& f) {
  std::vector<std::vector<double>> values;
  for (const Tensor& t : inputs) values.push_back(to_doubles(t));
  std::vector<double> out(values[0].size());
  std::vector<double> row(values.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    for (std::size_t k = 0; k < row.size(); ++k) row[k] = values[k][i];
    out[i] = f(row);
  }
  return out;
}

double silu(double z) { return z / (1 + std::exp(-z)); }
double silu_slope(double z) {
  const double s = 1 / (1 + std::exp(-z));
  return s * (1 + z * (1 - s));
}

TEST(VectorMath, FloatFunctionsStayWithinTheirStatedErrors) {
  std::vector<float> x;
  for (int i = -1100000; i <= 900000; ++i) x.push_back(float(i) * 1e-4f);
  const std::size_t n = x.size();
  std::vector<float> e(n), l(n), t(n), c(n);
  const float* px = x.data();
  float *pe = e.data(), *pl = l.data(), *pt = t.data(), *pc = c.data();
  each(0, std::int64_t(n), [=](std::int64_t i) {
    pe[i] = exp_of(px[i]);
    pl[i] = log1p_of(std::fabs(px[i]) < 1 ? std::fabs(px[i]) : 1.0f);
    pt[i] = tanh_of(px[i]);
    pc[i] = normal_cdf(px[i]);
  });
  double exp_error = 0, log_error = 0, tanh_error = 0, cdf_error = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double v = double(x[i]), u = std::min(1.0, std::fabs(v));
    if (v > -87 && v < 88.7)
      exp_error = std::max(exp_error, std::fabs(double(e[i]) / std::exp(v) - 1));
    if (u > 0) log_error = std::max(log_error, std::fabs(double(l[i]) / std::log1p(u) - 1));
    if (v != 0) tanh_error = std::max(tanh_error, std::fabs(double(t[i]) / std::tanh(v) - 1));
    cdf_error = std::max(cdf_error, std::fabs(double(c[i]) - 0.5 * std::erfc(-v / std::sqrt(2.0))));
  }
  EXPECT_LT(exp_error, 2e-7);
  EXPECT_LT(log_error, 3e-7);
  EXPECT_LT(tanh_error, 3e-7);
  EXPECT_LT(cdf_error, 3e-7);
}

TEST(VectorMath, ExpOfExtremesIsTheLibrarys) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float x : {-infinity, -1e30f, -104.0f, -103.0f, -95.0f, -88.0f, 0.0f, 88.72f, 89.0f,
                        1e30f, infinity}) {
    const float expected = std::exp(x), got = exp_of(x);
    if (expected == 0 || std::isinf(expected))
      EXPECT_EQ(got, expected) << x;
    else
      EXPECT_NEAR(got, expected, 2e-7 * expected + 1.5e-45) << x;
  }
  EXPECT_TRUE(std::isnan(exp_of(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(tanh_of(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(normal_cdf(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_EQ(tanh_of(infinity), 1.0f);
  EXPECT_EQ(tanh_of(-infinity), -1.0f);
  EXPECT_EQ(normal_cdf(infinity), 1.0f);
  EXPECT_EQ(normal_cdf(-infinity), 0.0f);
}

TEST(Loops, SumsAndMaximaOfAnyLength) {
  for (const std::int64_t n : {0, 1, 7, 16, 17, 1023, 1024, 1025, 5000}) {
    const Tensor x = random_tensor({n}, DType::f32, 3);
    const float* p = x.data<float>();
    double sum = 0, largest = -kInfinity;
    for (std::int64_t i = 0; i < n; ++i) {
      sum += double(p[i]);
      largest = std::max(largest, double(p[i]));
    }
    EXPECT_NEAR(sum_of(0, n, [=](std::int64_t i) { return p[i]; }), sum, 2e-4) << n;
    EXPECT_EQ(double(max_of(p, n)), largest) << n;
  }
}

TEST(Elementwise, ArithmeticMatchesPlainLoops) {
  for (const auto& [dtype, tolerance] : kPrecisions) {
    const Tensor a = random_tensor({kSize}, dtype, 1), b = random_tensor({kSize}, dtype, 2),
                 c = random_tensor({kSize}, dtype, 3);
    Tensor y = empty_like(a);
    cpu().add(y, a, b);
    EXPECT_TRUE(near(y, map({a, b}, [](auto& v) { return v[0] + v[1]; }), tolerance));
    cpu().multiply(y, a, b);
    EXPECT_TRUE(near(y, map({a, b}, [](auto& v) { return v[0] * v[1]; }), tolerance));
    cpu().multiply_add(y, a, b, c);
    EXPECT_TRUE(near(y, map({a, b, c}, [](auto& v) { return v[0] + v[1] * v[2]; }), tolerance));
    y.copy_from(a);
    cpu().scale(y, -0.375);
    EXPECT_TRUE(near(y, map({a}, [](auto& v) { return -0.375 * v[0]; }), tolerance));
    y.copy_from(a);
    cpu().scale_by(y, from_doubles({1}, accumulator(dtype), {-0.375}));
    EXPECT_TRUE(near(y, map({a}, [](auto& v) { return -0.375 * v[0]; }), tolerance));
    cpu().fill(y, 1.5);
    EXPECT_TRUE(near(y, std::vector<double>(std::size_t(kSize), 1.5), 0));
  }
}

TEST(Elementwise, CastAndAddIntoMixAllTypes) {
  for (const auto& from : kPrecisions) {
    for (const auto& to : kPrecisions) {
      const Tensor x = random_tensor({kSize}, from.dtype, 1);
      Tensor y = Tensor::empty({kSize}, to.dtype);
      cpu().cast(y, x);
      EXPECT_TRUE(same_bits(y, from_doubles({kSize}, to.dtype, to_doubles(x))))
          << name(from.dtype) << " to " << name(to.dtype);
      Tensor sum = random_tensor({kSize}, to.dtype, 2);
      const auto expected = map({sum, x}, [](auto& v) { return v[0] + v[1]; });
      cpu().add_into(sum, x);
      EXPECT_TRUE(near(sum, expected, to.tolerance)) << name(from.dtype) << " " << name(to.dtype);
    }
  }
}

TEST(Elementwise, AddIntoCountsExactly) {
  const Tensor x = Tensor::of<std::int64_t>({3}, {1, -7, std::int64_t{1} << 60});
  Tensor y = Tensor::of<std::int64_t>({3}, {2, 7, 1});
  cpu().add_into(y, x);
  EXPECT_EQ(std::vector(y.data<std::int64_t>(), y.data<std::int64_t>() + 3),
            (std::vector<std::int64_t>{3, 0, (std::int64_t{1} << 60) + 1}));
}

TEST(Elementwise, CastKeepsNaNAndInfinityAndRoundsToEven) {
  const Tensor x = Tensor::of<float>({5}, {float(kNaN), float(kInfinity), -float(kInfinity),
                                           1.00390625f, 1.01171875f});  // halfway: down, then up
  Tensor y = Tensor::empty({5}, DType::bf16);
  cpu().cast(y, x);
  const std::vector<double> v = to_doubles(y);
  EXPECT_TRUE(std::isnan(v[0]));
  EXPECT_EQ(v[1], kInfinity);
  EXPECT_EQ(v[2], -kInfinity);
  EXPECT_EQ(v[3], 1.0);
  EXPECT_EQ(v[4], 1.015625);
}

TEST(Elementwise, ActivationsMatchPlainLoops) {
  for (const auto& [dtype, tolerance] : kPrecisions) {
    const Tensor x = random_tensor({kSize}, dtype, 1, 3), dy = random_tensor({kSize}, dtype, 2);
    Tensor y = empty_like(x), dx = empty_like(x);
    cpu().tanh_forward(y, x);
    EXPECT_TRUE(near(y, map({x}, [](auto& v) { return std::tanh(v[0]); }), tolerance));
    cpu().tanh_backward(dx, dy, y);
    EXPECT_TRUE(
        near(dx, map({dy, y}, [](auto& v) { return v[0] * (1 - v[1] * v[1]); }), tolerance));
    cpu().softplus_forward(y, x, 0.01);
    EXPECT_TRUE(
        near(y, map({x}, [](auto& v) { return std::log1p(std::exp(v[0])) + 0.01; }), tolerance));
    cpu().softplus_backward(dx, dy, x);
    EXPECT_TRUE(
        near(dx, map({dy, x}, [](auto& v) { return v[0] / (1 + std::exp(-v[1])); }), tolerance));
  }
}

TEST(Elementwise, SwigluMatchesPlainLoops) {
  for (const auto& [dtype, tolerance] : kPrecisions) {
    const Tensor gate = random_tensor({kSize}, dtype, 1, 3), up = random_tensor({kSize}, dtype, 2),
                 dy = random_tensor({kSize}, dtype, 3);
    const auto y_expected = map({gate, up}, [](auto& v) { return silu(v[0]) * v[1]; });
    Tensor y = empty_like(gate), dgate = empty_like(gate), dup = empty_like(gate);
    cpu().swiglu_forward(y, gate, up);
    EXPECT_TRUE(near(y, y_expected, tolerance));
    cpu().fill(y, 0);
    cpu().swiglu_backward(dgate, dup, y, dy, gate, up);
    EXPECT_TRUE(near(dgate,
                     map({dy, up, gate}, [](auto& v) { return v[0] * v[1] * silu_slope(v[2]); }),
                     tolerance));
    EXPECT_TRUE(near(dup, map({dy, gate}, [](auto& v) { return v[0] * silu(v[1]); }), tolerance));
    EXPECT_TRUE(near(y, y_expected, tolerance));

    Tensor in_place_up = up.clone(), in_place_gate = gate.clone(), in_place_dy = dy.clone();
    cpu().swiglu_backward(in_place_up, in_place_dy, in_place_gate, in_place_dy, in_place_gate,
                          in_place_up);
    EXPECT_TRUE(same_bits(in_place_up, dgate));
    EXPECT_TRUE(same_bits(in_place_dy, dup));
    EXPECT_TRUE(same_bits(in_place_gate, y));
  }
}

TEST(Elementwise, GradientsMatchCentralDifferences) {
  const Tensor x = random_tensor({40}, DType::f64, 1, 2), up = random_tensor({40}, DType::f64, 2),
               dy = random_tensor({40}, DType::f64, 3);
  Tensor y = empty_like(x), dx = empty_like(x), dup = empty_like(x), scratch = empty_like(x);
  cpu().tanh_forward(y, x);
  cpu().tanh_backward(dx, dy, y);
  EXPECT_TRUE(near(dx,
                   central_differences(x,
                                       [&] {
                                         cpu().tanh_forward(scratch, x);
                                         return dot(scratch, dy);
                                       }),
                   1e-9));
  cpu().softplus_backward(dx, dy, x);
  EXPECT_TRUE(near(dx,
                   central_differences(x,
                                       [&] {
                                         cpu().softplus_forward(scratch, x, 0.01);
                                         return dot(scratch, dy);
                                       }),
                   1e-9));
  const auto swiglu_loss = [&] {
    cpu().swiglu_forward(scratch, x, up);
    return dot(scratch, dy);
  };
  cpu().swiglu_backward(dx, dup, y, dy, x, up);
  EXPECT_TRUE(near(dx, central_differences(x, swiglu_loss), 1e-9));
  EXPECT_TRUE(near(dup, central_differences(up, swiglu_loss), 1e-9));
}

TEST(Elementwise, LargeArgumentsDoNotOverflow) {
  const std::vector<double> large = {-1e30, -1000, -90, 90, 1000, 1e30};
  for (const auto& [dtype, tolerance] : kAccumulators) {
    const Tensor x = from_doubles({6}, dtype, large),
                 one = from_doubles({6}, dtype, {1, 1, 1, 1, 1, 1});
    Tensor y = empty_like(x), dup = empty_like(x), z = empty_like(x);
    cpu().softplus_forward(y, x, 0.5);
    EXPECT_TRUE(near(y, map({x}, [](auto& v) { return std::max(v[0], 0.0) + 0.5; }), tolerance));
    cpu().swiglu_backward(y, dup, z, one, x, one);
    EXPECT_TRUE(near(y, {0, 0, 0, 1, 1, 1}, 1e-6));
    EXPECT_TRUE(near(z, map({x}, [](auto& v) { return std::max(v[0], 0.0); }), tolerance));
  }
}

TEST(Elementwise, SquaredNormAddsUpAndSumOverwrites) {
  for (const auto& [dtype, tolerance] : kPrecisions) {
    const Tensor x = random_tensor({kSize}, dtype, 1);
    double squares = 0;
    for (const double v : to_doubles(x)) squares += v * v;
    Tensor out = Tensor::of<double>({1}, {3.0});
    cpu().add_squared_norm(out, x);
    EXPECT_NEAR(out.data<double>()[0], squares + 3, 1e-12 * squares) << name(dtype);
  }
  for (const auto& [dtype, tolerance] : kAccumulators) {
    const Tensor x = random_tensor({kSize}, dtype, 1);
    double sum = 0;
    for (const double v : to_doubles(x)) sum += v;
    Tensor out = from_doubles({1}, dtype, {7});
    cpu().sum(out, x);
    EXPECT_TRUE(near(out, {sum}, dtype == DType::f64 ? 1e-11 : 1e-7));
  }
}

TEST(Elementwise, OneNaNMakesTheNormNaN) {
  for (const auto& [dtype, tolerance] : kPrecisions) {
    std::vector<double> values(std::size_t(kSize), 1.0);
    values[values.size() - 2] = kNaN;
    Tensor out = Tensor::zeros({1}, DType::f64);
    cpu().add_squared_norm(out, from_doubles({kSize}, dtype, values));
    EXPECT_TRUE(std::isnan(out.data<double>()[0])) << name(dtype);
    values[values.size() - 2] = kInfinity;
    out = Tensor::zeros({1}, DType::f64);
    cpu().add_squared_norm(out, from_doubles({kSize}, dtype, values));
    EXPECT_EQ(out.data<double>()[0], kInfinity) << name(dtype);
  }
}

TEST(Elementwise, NaNGoesThroughEveryKernel) {
  for (const auto& [dtype, tolerance] : kPrecisions) {
    const Tensor bad = from_doubles({20}, dtype, std::vector<double>(20, kNaN)),
                 good = random_tensor({20}, dtype, 1);
    Tensor y = empty_like(bad), a = empty_like(bad), b = empty_like(bad);
    const auto all_nan = [&](const Tensor& t) {
      for (const double v : to_doubles(t))
        if (!std::isnan(v)) return false;
      return true;
    };
    cpu().tanh_forward(y, bad);
    EXPECT_TRUE(all_nan(y));
    cpu().softplus_forward(y, bad, 0);
    EXPECT_TRUE(all_nan(y));
    cpu().swiglu_forward(y, bad, good);
    EXPECT_TRUE(all_nan(y));
    cpu().swiglu_backward(a, b, y, bad, good, good);
    EXPECT_TRUE(all_nan(a) && all_nan(b));
    cpu().multiply_add(y, good, bad, good);
    EXPECT_TRUE(all_nan(y));
  }
}

TEST(Elementwise, EmptyTensorsAreLeftAlone) {
  Tensor none = Tensor::empty({0}, DType::f32), out = Tensor::of<double>({1}, {2.0});
  cpu().add(none, none, none);
  cpu().scale(none, 2);
  cpu().add_squared_norm(out, none);
  EXPECT_EQ(out.data<double>()[0], 2.0);
}

TEST(Elementwise, SumsHaveTheSameBitsOnAnyNumberOfThreads) {
  const Tensor x = random_tensor({5 * kGrain + 11}, DType::f32, 1);
  expect_same_bits_on_any_threads([&] {
    Tensor norm = Tensor::zeros({1}, DType::f64), sum = Tensor::empty({1}, DType::f32);
    cpu().add_squared_norm(norm, x);
    cpu().sum(sum, x);
    return std::vector<Tensor>{norm, sum};
  });
}

}  // namespace
}  // namespace moe
