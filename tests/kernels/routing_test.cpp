// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/backend.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

Backend& cpu() { return backend(Device::cpu); }

struct TopK {
  Tensor values, indices;
};
TopK topk(const Tensor& scores, std::int64_t m, const Tensor& valid = {}) {
  TopK r{Tensor::empty({scores.rows(), m}, scores.dtype()),
         Tensor::empty({scores.rows(), m}, DType::i32)};
  cpu().topk(r.values, r.indices, scores, valid);
  return r;
}

std::vector<std::int32_t> ints(const Tensor& t) {
  return {t.data<std::int32_t>(), t.data<std::int32_t>() + t.size()};
}

/// One token in four is not valid.
Tensor some_valid(std::int64_t tokens) {
  Tensor valid = Tensor::empty({tokens}, DType::u8);
  for (std::int64_t t = 0; t < tokens; ++t) valid.data<std::uint8_t>()[t] = t % 4 != 1;
  return valid;
}

/// softmax of a row of doubles.
std::vector<double> softmax(std::vector<double> x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double& v : x) sum += v = std::exp(v - largest);
  for (double& v : x) v /= sum;
  return x;
}
std::vector<double> row(const std::vector<double>& x, std::int64_t i, std::int64_t cols) {
  return {x.begin() + i * cols, x.begin() + (i + 1) * cols};
}

TEST(TopK, IsAStableSortOfEachRow) {
  const PoisonedMemory poisoned;
  for (const auto& [dtype, tolerance] : kAccumulators) {
    for (const auto& [experts, m] :
         {std::pair{1, 1}, {2, 1}, {7, 3}, {8, 8}, {64, 9}, {256, 17}, {256, 1}}) {
      Tensor scores = random_tensor({50, experts}, dtype, 1);
      // A coarse grid makes many ties.
      scores = from_doubles(scores.shape(), dtype, [&] {
        auto v = to_doubles(scores);
        for (double& x : v) x = std::round(x * 4) / 4;
        return v;
      }());
      const TopK got = topk(scores, m);
      const auto v = to_doubles(scores);
      for (std::int64_t t = 0; t < scores.rows(); ++t) {
        const auto x = row(v, t, experts);
        std::vector<std::int32_t> order(x.size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(),
                         [&](auto a, auto b) { return x[std::size_t(a)] > x[std::size_t(b)]; });
        for (std::int64_t j = 0; j < m; ++j) {
          ASSERT_EQ(got.indices.data<std::int32_t>()[t * m + j], order[std::size_t(j)])
              << experts << " experts, token " << t << ", place " << j;
          ASSERT_EQ(to_doubles(got.values)[std::size_t(t * m + j)],
                    x[std::size_t(order[std::size_t(j)])]);
        }
      }
    }
  }
}

TEST(TopK, TiesGoToTheLowestIndex) {
  EXPECT_EQ(ints(topk(Tensor::zeros({1, 6}, DType::f32), 4).indices),
            (std::vector<std::int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(ints(topk(Tensor::of<float>({1, 5}, {1, 2, 1, 2, 2}), 4).indices),
            (std::vector<std::int32_t>{1, 3, 4, 0}));
}

TEST(TopK, InvalidTokensGetNoExpert) {
  const PoisonedMemory poisoned;
  const Tensor valid = Tensor::of<std::uint8_t>({3}, {0, 1, 0});
  const TopK got = topk(Tensor::of<float>({3, 2}, {1, 2, 3, 4, 5, 6}), 2, valid);
  EXPECT_EQ(ints(got.indices), (std::vector<std::int32_t>{-1, -1, 1, 0, -1, -1}));
  EXPECT_EQ(to_doubles(got.values), (std::vector<double>{0, 0, 4, 3, 0, 0}));
}

TEST(TopK, NaNIsChosenFirstAndIndicesStayInRange) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  const TopK one = topk(Tensor::of<float>({1, 4}, {1, nan, infinity, nan}), 3);
  EXPECT_EQ(ints(one.indices), (std::vector<std::int32_t>{1, 3, 2}));
  EXPECT_TRUE(std::isnan(one.values.data<float>()[0]));
  const TopK all = topk(Tensor::of<float>({1, 3}, {nan, nan, nan}), 2);
  EXPECT_EQ(ints(all.indices), (std::vector<std::int32_t>{0, 1}));
  const TopK low = topk(Tensor::of<float>({1, 3}, {-infinity, -infinity, -infinity}), 3);
  EXPECT_EQ(ints(low.indices), (std::vector<std::int32_t>{0, 1, 2}));
}

TEST(RouterSoftmax, MatchesPlainLoops) {
  for (const auto& [dtype, tolerance] : kAccumulators) {
    for (const std::int64_t experts : {1, 8, 77}) {
      const Tensor x = random_tensor({30, experts}, dtype, 1, 3),
                   dp = random_tensor({30, experts}, dtype, 2);
      Tensor p = empty_like(x), dx = empty_like(x);
      cpu().softmax_forward(p, x);
      cpu().softmax_backward(dx, dp, p);
      std::vector<double> expected, gradient;
      const auto xv = to_doubles(x), dv = to_doubles(dp), pv = to_doubles(p);
      for (std::int64_t t = 0; t < 30; ++t) {
        const auto q = softmax(row(xv, t, experts)), d = row(dv, t, experts),
                   rounded = row(pv, t, experts);
        const double mean = std::inner_product(d.begin(), d.end(), rounded.begin(), 0.0);
        for (std::size_t e = 0; e < q.size(); ++e) {
          expected.push_back(q[e]);
          gradient.push_back(rounded[e] * (d[e] - mean));
        }
      }
      EXPECT_TRUE(near(p, expected, tolerance));
      EXPECT_TRUE(near(dx, gradient, tolerance));
    }
  }
}

TEST(RouterSoftmax, LargeLogitsDoNotOverflow) {
  for (const auto& [dtype, tolerance] : kAccumulators) {
    const Tensor x = from_doubles({2, 3}, dtype, {1e30, -1e30, 1e30, -1e30, -1e30, -2e30});
    Tensor p = empty_like(x);
    cpu().softmax_forward(p, x);
    EXPECT_TRUE(near(p, {0.5, 0, 0.5, 0.5, 0.5, 0}, tolerance));
  }
}

TEST(RouterSoftmax, GradientMatchesCentralDifferences) {
  const Tensor x = random_tensor({4, 5}, DType::f64, 1), dp = random_tensor({4, 5}, DType::f64, 2);
  Tensor p = empty_like(x), dx = empty_like(x), scratch = empty_like(x);
  cpu().softmax_forward(p, x);
  cpu().softmax_backward(dx, dp, p);
  EXPECT_TRUE(near(dx,
                   central_differences(x,
                                       [&] {
                                         cpu().softmax_forward(scratch, x);
                                         return dot(scratch, dp);
                                       }),
                   1e-8));
}

const std::vector<RouterWeights> kForms = {RouterWeights::softmax_of_chosen,
                                           RouterWeights::softmax_of_all};

TEST(RouterWeights, MatchThePlainSoftmaxOfTheChosenOrOfAll) {
  const PoisonedMemory poisoned;
  for (const auto& [dtype, tolerance] : kAccumulators) {
    for (const RouterWeights form : kForms) {
      const std::int64_t tokens = 40, experts = 9, k = 3;
      const Tensor x = random_tensor({tokens, experts}, dtype, 1, 2);
      const Tensor indices = topk(x, k, some_valid(tokens)).indices;
      indices.data<std::int32_t>()[0] = -1;  // a dropped pair of a valid token
      Tensor w = Tensor::empty({tokens, k}, dtype);
      cpu().router_weights_forward(w, x, indices, form);
      std::vector<double> expected;
      const auto xv = to_doubles(x);
      for (std::int64_t t = 0; t < tokens; ++t) {
        const auto logits = row(xv, t, experts), all = softmax(logits);
        const std::int32_t* chosen = indices.data<std::int32_t>() + t * k;
        double sum = 0;
        for (std::int64_t j = 0; j < k; ++j)
          if (chosen[j] >= 0) sum += all[std::size_t(chosen[j])];
        for (std::int64_t j = 0; j < k; ++j) {
          const double p = chosen[j] < 0 ? 0 : all[std::size_t(chosen[j])];
          expected.push_back(p == 0 ? 0 : form == RouterWeights::softmax_of_all ? p : p / sum);
        }
      }
      EXPECT_TRUE(near(w, expected, tolerance));
    }
  }
}

TEST(RouterWeights, GradientsMatchCentralDifferences) {
  const PoisonedMemory poisoned;
  for (const RouterWeights form : kForms) {
    for (const std::int64_t k : {1, 2, 5}) {
      const Tensor x = random_tensor({6, 5}, DType::f64, 1),
                   dw = random_tensor({6, k}, DType::f64, 2);
      const Tensor indices = topk(x, k, some_valid(6)).indices;
      Tensor w = Tensor::empty({6, k}, DType::f64), dx = empty_like(x), scratch = w.clone();
      cpu().router_weights_forward(w, x, indices, form);
      cpu().router_weights_backward(dx, dw, w, x, indices, form);
      const auto expected = central_differences(x, [&] {
        cpu().router_weights_forward(scratch, x, indices, form);
        return dot(scratch, dw);
      });
      EXPECT_LT(max_abs_difference(to_doubles(dx), expected), 1e-9);
    }
  }
}

TEST(RouterWeights, TopOneLearnsThroughTheSoftmaxOfAllOnly) {
  const Tensor x = random_tensor({6, 5}, DType::f64, 1), dw = random_tensor({6, 1}, DType::f64, 2);
  const Tensor indices = topk(x, 1).indices;
  for (const RouterWeights form : kForms) {
    Tensor w = Tensor::empty({6, 1}, DType::f64), dx = empty_like(x);
    cpu().router_weights_forward(w, x, indices, form);
    cpu().router_weights_backward(dx, dw, w, x, indices, form);
    const double norm = std::sqrt(dot(dx, dx));
    if (form == RouterWeights::softmax_of_all)
      EXPECT_GT(norm, 0.1);
    else
      EXPECT_EQ(norm, 0);
  }
}

TEST(RouterWeights, LargeLogitsDoNotOverflow) {
  for (const auto& [dtype, tolerance] : kAccumulators) {
    for (const RouterWeights form : kForms) {
      const Tensor x = from_doubles({1, 3}, dtype, {-1e30, 1e30, 1e30});
      const Tensor indices = Tensor::of<std::int32_t>({1, 2}, {1, 2});
      Tensor w = Tensor::empty({1, 2}, dtype), dx = empty_like(x);
      cpu().router_weights_forward(w, x, indices, form);
      EXPECT_TRUE(near(w, {0.5, 0.5}, tolerance));
      cpu().router_weights_backward(dx, from_doubles({1, 2}, dtype, {1, 0}), w, x, indices, form);
      EXPECT_TRUE(near(dx, {0, 0.25, -0.25}, tolerance));
    }
  }
}

TEST(Columns, ScatterAndGatherAreInverseOnTheChosen) {
  const PoisonedMemory poisoned;
  for (const auto& [dtype, tolerance] : kAccumulators) {
    const std::int64_t tokens = 20, experts = 6, k = 2;
    const Tensor indices =
        topk(random_tensor({tokens, experts}, dtype, 1), k, some_valid(tokens)).indices;
    const Tensor w = random_tensor({tokens, k}, dtype, 2);
    Tensor dense = Tensor::empty({tokens, experts}, dtype), back = empty_like(w);
    cpu().scatter_columns(dense, w, indices);
    cpu().gather_columns(back, dense, indices);
    std::vector<double> expected(std::size_t(tokens * experts)), expected_back = to_doubles(w);
    for (std::int64_t s = 0; s < tokens * k; ++s) {
      const std::int32_t e = indices.data<std::int32_t>()[s];
      if (e < 0)
        expected_back[std::size_t(s)] = 0;
      else
        expected[std::size_t(s / k * experts + e)] = to_doubles(w)[std::size_t(s)];
    }
    EXPECT_TRUE(near(dense, expected, 0));
    EXPECT_TRUE(near(back, expected_back, 0));
  }
}

TEST(Columns, LeadingOnesAreCopied) {
  const PoisonedMemory poisoned;
  const Tensor x = random_indices({700, 5}, -1, 9, 1);
  Tensor y = Tensor::empty({700, 3}, DType::i32);
  cpu().leading_columns(y, x);
  for (std::int64_t t = 0; t < 700; ++t)
    for (std::int64_t j = 0; j < 3; ++j)
      ASSERT_EQ(y.data<std::int32_t>()[t * 3 + j], x.data<std::int32_t>()[t * 5 + j]);
}

/// A pair stays when fewer than capacity pairs of its segment and expert come before it.
std::vector<std::int32_t> kept_by_counting(const Tensor& indices, const Tensor& weights,
                                           const std::vector<std::int64_t>& capacities) {
  const auto index = ints(indices);
  const auto w = to_doubles(weights);
  const std::size_t length = index.size() / capacities.size();
  std::vector<std::int32_t> kept = index;
  for (std::size_t i = 0; i < index.size(); ++i) {
    const std::size_t s = i / length;
    std::int64_t before = 0;
    for (std::size_t other = s * length; other < (s + 1) * length; ++other)
      before += index[other] == index[i] && (w[other] > w[i] || (w[other] == w[i] && other < i));
    if (before >= capacities[s]) kept[i] = -1;
  }
  return kept;
}

TEST(Capacity, DropsTheLightestPairsOfEachSequenceAndExpertAndOfEqualOnesTheLater) {
  const PoisonedMemory poisoned;
  for (const auto& [dtype, tolerance] : kAccumulators) {
    const std::int64_t tokens = 60, k = 2;
    const Tensor indices =
        topk(random_tensor({tokens, 5}, dtype, 1), k, some_valid(tokens)).indices;
    // A coarse grid makes many ties.
    auto w = to_doubles(random_tensor({tokens, k}, dtype, 2));
    for (double& v : w) v = std::round(v);
    const Tensor weights = from_doubles({tokens, k}, dtype, w);
    for (const std::vector<std::int64_t>& capacities : {std::vector<std::int64_t>{7},
                                                        {0, 1000},
                                                        {1, 2, 3, 4, 5},
                                                        std::vector<std::int64_t>(60, 1)}) {
      Tensor kept = empty_like(indices);
      cpu().drop_over_capacity(
          kept, indices, weights,
          Tensor::of<std::int64_t>({std::int64_t(capacities.size())}, capacities));
      EXPECT_EQ(ints(kept), kept_by_counting(indices, weights, capacities))
          << capacities.size() << " segments";
    }
  }
}

TEST(Capacity, NaNIsHeaviestSoThatItIsSeen) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor indices = Tensor::of<std::int32_t>({4, 1}, {0, 0, 0, 0});
  Tensor kept = empty_like(indices);
  cpu().drop_over_capacity(kept, indices, Tensor::of<float>({4, 1}, {1, nan, 2, nan}),
                           Tensor::of<std::int64_t>({1}, {3}));
  EXPECT_EQ(ints(kept), (std::vector<std::int32_t>{-1, 0, 0, 0}));
}

TEST(Segments, CountsAndSumsPerSegment) {
  const PoisonedMemory poisoned;
  for (const auto& [dtype, tolerance] : kAccumulators) {
    for (const std::int64_t segments : {1, 4, 40}) {
      const std::int64_t tokens = 40, experts = 5, k = 2, length = tokens / segments;
      const Tensor x = random_tensor({tokens, experts}, dtype, 1), valid = some_valid(tokens);
      const Tensor indices = topk(x, k, valid).indices;
      Tensor counts = Tensor::empty({segments, experts}, DType::i64);
      Tensor sums = Tensor::empty({segments, experts}, dtype), spread = empty_like(x);
      cpu().count_experts(counts, indices);
      cpu().segment_sum(sums, x, valid);
      cpu().segment_broadcast(spread, sums, valid);
      std::vector<double> c(std::size_t(segments * experts)), s = c, b(std::size_t(x.size()));
      for (std::int64_t t = 0; t < tokens; ++t) {
        if (valid.data<std::uint8_t>()[t] == 0) continue;
        for (std::int64_t j = 0; j < k; ++j)
          ++c[std::size_t(t / length * experts + indices.data<std::int32_t>()[t * k + j])];
        for (std::int64_t e = 0; e < experts; ++e) {
          s[std::size_t(t / length * experts + e)] += to_doubles(x)[std::size_t(t * experts + e)];
          b[std::size_t(t * experts + e)] = to_doubles(sums)[std::size_t(t / length * experts + e)];
        }
      }
      EXPECT_EQ(to_doubles(counts), c);
      EXPECT_TRUE(near(sums, s, tolerance));
      EXPECT_TRUE(near(spread, b, 0));
    }
  }
}

TEST(Segments, AMillionSmallTermsAreNotLost) {
  const std::int64_t tokens = 1 << 20;
  const Tensor x = Tensor::empty({tokens, 1}, DType::f32);
  std::fill_n(x.data<float>(), tokens, 0.1f);
  Tensor sum = Tensor::empty({1, 1}, DType::f32);
  cpu().segment_sum(sum, x, {});
  EXPECT_TRUE(near(sum, {double(tokens) * double(0.1f)}, 1e-7));
}

TEST(RoutingCorners, NoTokens) {
  const PoisonedMemory poisoned;
  const Tensor none = Tensor::empty({0, 4}, DType::f32);
  const TopK got = topk(none, 2);
  Tensor w = Tensor::empty({0, 2}, DType::f32), p = empty_like(none);
  cpu().softmax_forward(p, none);
  cpu().router_weights_forward(w, none, got.indices, RouterWeights::softmax_of_all);
  Tensor counts = Tensor::empty({1, 4}, DType::i64), sums = Tensor::empty({1, 4}, DType::f32);
  cpu().count_experts(counts, got.indices);
  cpu().segment_sum(sums, none, {});
  EXPECT_EQ(to_doubles(counts), std::vector<double>(4, 0.0));
  EXPECT_EQ(to_doubles(sums), std::vector<double>(4, 0.0));
}

TEST(RoutingCorners, OneTokenOneExpert) {
  const PoisonedMemory poisoned;
  const Tensor x = Tensor::of<float>({1, 1}, {-3.5f});
  const TopK got = topk(x, 1);
  EXPECT_EQ(ints(got.indices), std::vector<std::int32_t>{0});
  for (const RouterWeights form : kForms) {
    Tensor w = Tensor::empty({1, 1}, DType::f32), dx = empty_like(x);
    cpu().router_weights_forward(w, x, got.indices, form);
    EXPECT_EQ(w.data<float>()[0], 1.0f);
    cpu().router_weights_backward(dx, Tensor::of<float>({1, 1}, {2.0f}), w, x, got.indices, form);
    EXPECT_EQ(dx.data<float>()[0], 0.0f);
  }
}

TEST(Routing, SameBitsOnAnyNumberOfThreads) {
  const std::int64_t tokens = 6000, experts = 16;
  const Tensor x = random_tensor({tokens, experts}, DType::f32, 1),
               dw = random_tensor({tokens, 2}, DType::f32, 2);
  expect_same_bits_on_any_threads([&] {
    const TopK top = topk(x, 2);
    Tensor w = Tensor::empty({tokens, 2}, DType::f32), dx = empty_like(x), p = empty_like(x),
           sums = Tensor::empty({3, experts}, DType::f32);
    cpu().router_weights_forward(w, x, top.indices, RouterWeights::softmax_of_all);
    cpu().router_weights_backward(dx, dw, w, x, top.indices, RouterWeights::softmax_of_all);
    cpu().softmax_forward(p, x);
    cpu().segment_sum(sums, p, {});
    Tensor kept = empty_like(top.indices);
    cpu().drop_over_capacity(kept, top.indices, w,
                             Tensor::of<std::int64_t>({6}, {90, 100, 110, 120, 130, 140}));
    return std::vector<Tensor>{top.values, top.indices, w, dx, p, sums, kept};
  });
}

}  // namespace
}  // namespace moe
