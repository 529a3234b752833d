// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <thread>
#include <vector>

#include "kernels/backend.h"
#include "support/reference_attention.h"
#include "support/reference_gemm.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using test::from_doubles;
using test::poisoned;
using test::random_tensor;
using test::relative_error;
using test::same_bits;
using test::to_doubles;

struct Types {
  DType type;
  double tolerance, lse_tolerance;
};
const std::vector<Types> kTypes = {
    {DType::f64, 1e-13, 1e-13}, {DType::f32, 2e-6, 1e-6}, {DType::bf16, 1e-2, 1e-6}};

struct Passes {
  Tensor q, k, v, dout, out, lse, dq, dk, dv;
};

// Both passes into poisoned outputs.
Passes passes(const AttentionShape& s, DType type, double scale = 1) {
  const Shape q_shape = {s.batch * s.q_length, s.heads * s.head_dim};
  const Shape kv_shape = {s.batch * s.kv_length, s.kv_heads * s.head_dim};
  Passes r{random_tensor(q_shape, type, 1, scale),
           random_tensor(kv_shape, type, 2, scale),
           random_tensor(kv_shape, type, 3),
           random_tensor(q_shape, type, 4),
           poisoned(q_shape, type),
           poisoned({s.batch, s.heads, s.q_length}, accumulator(type)),
           poisoned(q_shape, type),
           poisoned(kv_shape, type),
           poisoned(kv_shape, type)};
  cpu_backend().attention_forward(r.out, r.lse, r.q, r.k, r.v, s);
  cpu_backend().attention_backward(r.dq, r.dk, r.dv, r.dout, r.q, r.k, r.v, r.out, r.lse, s);
  return r;
}

void expect_reference(const AttentionShape& s, const Types& types, double scale = 1) {
  SCOPED_TRACE(str(name(types.type), ", batch ", s.batch, ", lengths ", s.q_length, " and ",
                   s.kv_length, ", heads ", s.heads, " over ", s.kv_heads, ", head_dim ",
                   s.head_dim));
  const Passes r = passes(s, types.type, scale);
  const auto want = reference::attention(to_doubles(r.q), to_doubles(r.k), to_doubles(r.v),
                                         to_doubles(r.dout), s);
  EXPECT_LE(relative_error(r.out, want.out), types.tolerance);
  EXPECT_LE(relative_error(r.lse, want.lse), types.lse_tolerance);
  // With one key the probability is 1 and dq, dk are 0: nothing to be relative to.
  if (s.kv_length > 1) {
    EXPECT_LE(relative_error(r.dq, want.dq), types.tolerance);
    EXPECT_LE(relative_error(r.dk, want.dk), types.tolerance);
  }
  EXPECT_LE(relative_error(r.dv, want.dv), types.tolerance);
}

TEST(Attention, EqualsThePlainLoopsAtAllLengths) {
  for (const Types& types : kTypes)
    for (const std::int64_t length : {1, 5, 64, 65, 200, 300})
      expect_reference({2, length, length, 2, 2, 16}, types);
}

TEST(Attention, SumsKeyAndValueGradientsOverTheHeadsOfAGroup) {
  for (const Types& types : kTypes) {
    expect_reference({1, 70, 70, 6, 2, 8}, types);
    expect_reference({2, 33, 33, 4, 1, 24}, types);
  }
}

TEST(Attention, ContinuesAfterCachedKeys) {
  for (const Types& types : kTypes)
    for (const auto& [q_length, kv_length] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {1, 2}, {1, 65}, {1, 300}, {3, 200}, {65, 129}, {100, 357}})
      expect_reference({2, q_length, kv_length, 4, 2, 16}, types);
}

TEST(Attention, OddHeadDimensions) {
  for (const Types& types : kTypes)
    for (const std::int64_t head_dim : {1, 7, 80})
      expect_reference({1, 90, 90, 2, 1, head_dim}, types);
}

TEST(Attention, LargeScoresDoNotOverflow) {
  // Scores up to about 10000, with maxima of a row's key tiles that lie hundreds apart: exp
  // overflows unless the maximum of all is taken off.
  const AttentionShape s = {1, 600, 600, 2, 2, 16};
  for (const DType type : {DType::f64, DType::f32}) {
    const Passes r = passes(s, type, 30);
    const auto want = reference::attention(to_doubles(r.q), to_doubles(r.k), to_doubles(r.v),
                                           to_doubles(r.dout), s);
    EXPECT_LE(relative_error(r.out, want.out), type == DType::f64 ? 1e-12 : 1e-3);
    EXPECT_LE(relative_error(r.lse, want.lse), 1e-6);
    for (const Tensor& t : {r.dq, r.dk, r.dv})
      for (const double x : to_doubles(t)) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST(Attention, NotANumberIsSeen) {
  const AttentionShape s = {1, 8, 8, 1, 1, 4};
  Passes r = passes(s, DType::f32);
  r.q.data<float>()[3 * 4 + 1] = NAN;
  cpu_backend().attention_forward(r.out, r.lse, r.q, r.k, r.v, s);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(std::isnan(r.out.data<float>()[i * 4]), i == 3) << i;
    EXPECT_EQ(std::isnan(r.lse.data<float>()[i]), i == 3) << i;
  }
}

TEST(Attention, GradientsMatchCentralDifferences) {
  const AttentionShape s = {1, 3, 5, 4, 2, 3};
  const Passes r = passes(s, DType::f64);
  const auto objective = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
    Tensor out = empty_like(r.out), lse = empty_like(r.lse);
    cpu_backend().attention_forward(out, lse, q, k, v, s);
    double sum = 0;
    for (std::int64_t i = 0; i < out.size(); ++i)
      sum += out.data<double>()[i] * r.dout.data<double>()[i];
    return sum;
  };
  const std::vector<Tensor> inputs = {r.q, r.k, r.v}, gradients = {r.dq, r.dk, r.dv};
  for (std::size_t which = 0; which < 3; ++which)
    for (std::int64_t i = 0; i < inputs[which].size(); ++i) {
      const auto moved = [&](double by) {
        std::vector<Tensor> at = inputs;
        at[which] = inputs[which].clone();
        at[which].data<double>()[i] += by;
        return objective(at[0], at[1], at[2]);
      };
      const double h = 1e-5;
      EXPECT_NEAR(gradients[which].data<double>()[i], (moved(h) - moved(-h)) / (2 * h), 1e-8)
          << "qkv"[which] << " " << i;
    }
}

TEST(Attention, RepeatsToTheBit) {
  for (const Types& types : kTypes) {
    const AttentionShape s = {2, 150, 150, 4, 2, 16};
    const Passes a = passes(s, types.type), b = passes(s, types.type);
    EXPECT_TRUE(same_bits(a.out, b.out));
    EXPECT_TRUE(same_bits(a.lse, b.lse));
    EXPECT_TRUE(same_bits(a.dq, b.dq));
    EXPECT_TRUE(same_bits(a.dk, b.dk));
    EXPECT_TRUE(same_bits(a.dv, b.dv));
  }
}

TEST(Attention, ASequenceDoesNotDependOnItsBatch) {
  const std::int64_t length = 70, width = 4 * 8;
  const AttentionShape both = {2, length, length, 4, 4, 8}, one = {1, length, length, 4, 4, 8};
  const Passes r = passes(both, DType::f64);
  const auto second = [&](const Tensor& t) { return t.slice(length, length); };
  Tensor out = poisoned({length, width}, DType::f64), lse = poisoned({1, 4, length}, DType::f64);
  Tensor dq = empty_like(out), dk = empty_like(out), dv = empty_like(out);
  cpu_backend().attention_forward(out, lse, second(r.q), second(r.k), second(r.v), one);
  cpu_backend().attention_backward(dq, dk, dv, second(r.dout), second(r.q), second(r.k),
                                   second(r.v), out, lse, one);
  EXPECT_TRUE(same_bits(out, second(r.out)));
  EXPECT_TRUE(same_bits(lse, r.lse.slice(1, 1)));
  EXPECT_TRUE(same_bits(dq, second(r.dq)));
  EXPECT_TRUE(same_bits(dk, second(r.dk)));
  EXPECT_TRUE(same_bits(dv, second(r.dv)));
}

TEST(Attention, RanksAsThreadsOfOneProcessDoNotDisturbEachOther) {
  for (const Types& types : kTypes) {
    const AttentionShape s = {1, 100, 100, 4, 2, 16};
    const Passes want = passes(s, types.type);
    std::vector<int> wrong(3);
    std::vector<std::thread> ranks;
    for (std::size_t rank = 0; rank < wrong.size(); ++rank)
      ranks.emplace_back([&, rank] {
        for (int i = 0; i < 5; ++i) {
          const Passes r = passes(s, types.type);
          wrong[rank] += !same_bits(r.out, want.out) || !same_bits(r.dq, want.dq) ||
                         !same_bits(r.dk, want.dk) || !same_bits(r.dv, want.dv);
        }
      });
    for (std::thread& rank : ranks) rank.join();
    EXPECT_EQ(wrong, std::vector<int>(3, 0)) << name(types.type);
  }
}

}  // namespace
}  // namespace moe
