// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

constexpr double kEps = 1e-5;

struct Reference {
  std::vector<double> y, rstd, dx, dw;
};

/// The formulas of kernels/backend.h in double, one row after the other.
Reference reference(const Tensor& dy, const Tensor& x, const Tensor& w) {
  const auto rows = std::size_t(x.rows()), cols = std::size_t(x.cols());
  const auto gv = to_doubles(dy), xv = to_doubles(x), wv = to_doubles(w);
  Reference out{std::vector<double>(xv.size()), std::vector<double>(rows),
                std::vector<double>(xv.size()), std::vector<double>(cols)};
  for (std::size_t i = 0; i < rows; ++i) {
    double squares = 0, mean = 0;
    for (std::size_t j = 0; j < cols; ++j) squares += xv[i * cols + j] * xv[i * cols + j];
    const double r = out.rstd[i] = 1 / std::sqrt(squares / double(cols) + kEps);
    for (std::size_t j = 0; j < cols; ++j)
      mean += gv[i * cols + j] * wv[j] * xv[i * cols + j] * r / double(cols);
    for (std::size_t j = 0; j < cols; ++j) {
      const std::size_t k = i * cols + j;
      out.y[k] = xv[k] * r * wv[j];
      out.dx[k] = r * (gv[k] * wv[j] - xv[k] * r * mean);
      out.dw[j] += gv[k] * xv[k] * r;
    }
  }
  return out;
}

struct Result {
  Tensor y, rstd, dx, dw;
};
Result run(const Tensor& dy, const Tensor& x, const Tensor& w) {
  Backend& cpu = backend(Device::cpu);
  const DType acc = accumulator(x.dtype());
  Result r{empty_like(x), Tensor::empty({x.rows()}, acc), empty_like(x),
           Tensor::empty({x.cols()}, acc)};
  cpu.rmsnorm_forward(r.y, r.rstd, x, w, kEps);
  cpu.rmsnorm_backward(r.dx, r.dw, dy, x, w, r.rstd);
  return r;
}

TEST(RmsNorm, MatchesPlainLoops) {
  const PoisonedMemory poisoned;
  for (const auto& [dtype, tolerance] : kPrecisions) {
    for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{64, 48}, Shape{200, 530}}) {
      SCOPED_TRACE(join(shape));
      const Tensor x = random_tensor(shape, dtype, 1, 2), dy = random_tensor(shape, dtype, 2),
                   w = random_tensor({shape[1]}, dtype, 3);
      const Reference expected = reference(dy, x, w);
      const Result got = run(dy, x, w);
      // Sums are kept in f32 for bf16, so what is not rounded to bf16 is as good as f32's.
      const double acc_tolerance = std::min(tolerance, 5e-7);
      EXPECT_TRUE(near(got.y, expected.y, tolerance));
      EXPECT_TRUE(near(got.rstd, expected.rstd, acc_tolerance));
      // A single column cancels: dx is the rounding of eps's share.
      if (shape[1] > 1) {
        EXPECT_TRUE(near(got.dx, expected.dx, tolerance));
      }
      EXPECT_TRUE(near(got.dw, expected.dw, acc_tolerance));
    }
  }
}

TEST(RmsNorm, GradientsMatchCentralDifferences) {
  const Tensor x = random_tensor({5, 9}, DType::f64, 1), dy = random_tensor({5, 9}, DType::f64, 2),
               w = random_tensor({9}, DType::f64, 3);
  const Result got = run(dy, x, w);
  const auto loss = [&] { return dot(run(dy, x, w).y, dy); };
  EXPECT_TRUE(near(got.dx, central_differences(x, loss), 1e-8));
  EXPECT_TRUE(near(got.dw, central_differences(w, loss), 1e-8));
}

TEST(RmsNorm, NoRowsGiveAZeroWeightGradient) {
  const PoisonedMemory poisoned;
  const Tensor none = Tensor::empty({0, 6}, DType::f32), w = random_tensor({6}, DType::f32, 1);
  EXPECT_TRUE(near(run(none, none, w).dw, std::vector<double>(6, 0.0), 0));
}

TEST(RmsNorm, NaNReachesItsRowAndTheWeightGradient) {
  const Tensor x = random_tensor({3, 40}, DType::f32, 1),
               dy = random_tensor({3, 40}, DType::f32, 2), w = random_tensor({40}, DType::f32, 3);
  x.data<float>()[40 + 5] = std::numeric_limits<float>::quiet_NaN();
  const Result got = run(dy, x, w);
  for (std::int64_t j = 0; j < 40; ++j) {
    EXPECT_FALSE(std::isnan(got.y.data<float>()[j]));
    EXPECT_TRUE(std::isnan(got.y.data<float>()[40 + j]));
    EXPECT_TRUE(std::isnan(got.dx.data<float>()[40 + j]));
    EXPECT_TRUE(std::isnan(got.dw.data<float>()[j]));
  }
}

TEST(RmsNorm, SameBitsOnAnyNumberOfThreads) {
  const Tensor x = random_tensor({300, 300}, DType::f32, 1),
               dy = random_tensor({300, 300}, DType::f32, 2),
               w = random_tensor({300}, DType::f32, 3);
  expect_same_bits_on_any_threads([&] {
    const Result r = run(dy, x, w);
    return std::vector<Tensor>{r.y, r.rstd, r.dx, r.dw};
  });
}

}  // namespace
}  // namespace moe
