// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

constexpr std::int64_t kPositions = 40, kHeads = 3, kDim = 10, kLength = 16, kFirst = 5;

struct Angles {
  Tensor cos, sin;
};
Angles angles(DType acc) {
  std::vector<double> c, s;
  for (std::int64_t p = 0; p < kPositions; ++p) {
    for (std::int64_t j = 0; j < kDim / 2; ++j) {
      const double a = double(p) * std::pow(10000.0, -2.0 * double(j) / double(kDim));
      c.push_back(std::cos(a));
      s.push_back(std::sin(a));
    }
  }
  return {from_doubles({kPositions, kDim / 2}, acc, c),
          from_doubles({kPositions, kDim / 2}, acc, s)};
}

TEST(Rope, MatchesThePlainRotationOfEachPair) {
  for (const auto& [dtype, tolerance] : kPrecisions) {
    const Tensor x = random_tensor({3 * kLength, kHeads * kDim}, dtype, 1);
    const Angles a = angles(accumulator(dtype));
    const auto v = to_doubles(x), c = to_doubles(a.cos), s = to_doubles(a.sin);
    std::vector<double> expected(v.size());
    for (std::int64_t r = 0; r < x.rows(); ++r) {
      for (std::int64_t h = 0; h < kHeads; ++h) {
        for (std::int64_t j = 0; j < kDim / 2; ++j) {
          const auto low = std::size_t((r * kHeads + h) * kDim + j), high = low + kDim / 2;
          const auto k = std::size_t((kFirst + r % kLength) * kDim / 2 + j);
          expected[low] = v[low] * c[k] - v[high] * s[k];
          expected[high] = v[high] * c[k] + v[low] * s[k];
        }
      }
    }
    Tensor y = empty_like(x);
    backend(Device::cpu).rope(y, x, a.cos, a.sin, {}, kHeads, kLength, kFirst, false);
    EXPECT_TRUE(near(y, expected, tolerance));
    Tensor in_place = x.clone();
    backend(Device::cpu).rope(in_place, in_place, a.cos, a.sin, {}, kHeads, kLength, kFirst, false);
    EXPECT_TRUE(same_bits(in_place, y));
  }
}

TEST(Rope, TheInverseUndoesItAndIsTheGradient) {
  const Tensor x = random_tensor({kLength, kHeads * kDim}, DType::f64, 1),
               dy = random_tensor({kLength, kHeads * kDim}, DType::f64, 2);
  const Angles a = angles(DType::f64);
  Backend& cpu = backend(Device::cpu);
  Tensor y = empty_like(x), back = empty_like(x), dx = empty_like(x);
  cpu.rope(y, x, a.cos, a.sin, {}, kHeads, kLength, kFirst, false);
  cpu.rope(back, y, a.cos, a.sin, {}, kHeads, kLength, kFirst, true);
  EXPECT_TRUE(near(back, to_doubles(x), 1e-14));
  cpu.rope(dx, dy, a.cos, a.sin, {}, kHeads, kLength, kFirst, true);
  EXPECT_TRUE(near(dx,
                   central_differences(x,
                                       [&] {
                                         cpu.rope(y, x, a.cos, a.sin, {}, kHeads, kLength, kFirst,
                                                  false);
                                         return dot(y, dy);
                                       }),
                   1e-9));
}

TEST(Rope, ARowMayHaveAnyPosition) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Tensor x = random_tensor({2 * kLength, kHeads * kDim}, dtype, 1);
    const Tensor positions = random_indices({2 * kLength}, 0, kPositions - 1, 3);
    const Angles a = angles(accumulator(dtype));
    for (const bool inverse : {false, true}) {
      Tensor y = empty_like(x);
      backend(Device::cpu).rope(y, x, a.cos, a.sin, positions, kHeads, 1, 0, inverse);
      for (std::int64_t r = 0; r < x.rows(); ++r) {
        Tensor alone = empty_like(x.slice(r, 1));
        backend(Device::cpu)
            .rope(alone, x.slice(r, 1), a.cos, a.sin, {}, kHeads, 1,
                  positions.data<std::int32_t>()[r], inverse);
        EXPECT_TRUE(same_bits(alone, y.slice(r, 1))) << "row " << r;
      }
    }
  }
}

TEST(Rope, ScoresDependOnTheDistanceOfPositionsAlone) {
  const Angles a = angles(DType::f64);
  const Tensor q = random_tensor({1, kDim}, DType::f64, 1),
               k = random_tensor({1, kDim}, DType::f64, 2);
  const auto score = [&](std::int64_t query, std::int64_t key) {
    Tensor rq = empty_like(q), rk = empty_like(k);
    backend(Device::cpu).rope(rq, q, a.cos, a.sin, {}, 1, 1, query, false);
    backend(Device::cpu).rope(rk, k, a.cos, a.sin, {}, 1, 1, key, false);
    return dot(rq, rk);
  };
  EXPECT_NEAR(score(9, 4), score(30, 25), 1e-12);
  EXPECT_GT(std::fabs(score(9, 4) - score(9, 5)), 1e-3);
}

}  // namespace
}  // namespace moe
