// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <thread>
#include <vector>

#include "kernels/backend.h"
#include "support/document_starts.h"
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
  void run(const Tensor& starts, const AttentionShape& s) {
    cpu_backend().attention_forward(out, lse, q, k, v, starts, s);
    cpu_backend().attention_backward(dq, dk, dv, dout, q, k, v, out, lse, starts, s);
  }
};

// Both passes into poisoned outputs.
Passes passes(const AttentionShape& s, DType type, double scale = 1, const Tensor& starts = {}) {
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
  r.run(starts, s);
  return r;
}

void expect_reference(const AttentionShape& s, const Types& types, const Tensor& starts = {}) {
  SCOPED_TRACE(str(name(types.type), ", batch ", s.batch, ", lengths ", s.q_length, " and ",
                   s.kv_length, ", heads ", s.heads, " over ", s.kv_heads, ", head_dim ",
                   s.head_dim));
  const Passes r = passes(s, types.type, 1, starts);
  const auto want =
      reference::attention(to_doubles(r.q), to_doubles(r.k), to_doubles(r.v), to_doubles(r.dout), s,
                           starts.defined() ? to_doubles(starts) : std::vector<double>());
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
  cpu_backend().attention_forward(r.out, r.lse, r.q, r.k, r.v, {}, s);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(std::isnan(r.out.data<float>()[i * 4]), i == 3) << i;
    EXPECT_EQ(std::isnan(r.lse.data<float>()[i]), i == 3) << i;
  }
}

void expect_central_differences(const AttentionShape& s, const Tensor& starts) {
  const Passes r = passes(s, DType::f64, 1, starts);
  const auto objective = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
    Tensor out = empty_like(r.out), lse = empty_like(r.lse);
    cpu_backend().attention_forward(out, lse, q, k, v, starts, s);
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

TEST(Attention, GradientsMatchCentralDifferences) {
  expect_central_differences({1, 3, 5, 4, 2, 3}, {});
  expect_central_differences({2, 6, 6, 2, 1, 3}, test::random_starts(2, 6));
}

TEST(Attention, WithinDocumentsEqualsThePlainLoops) {
  for (const Types& types : kTypes) {
    for (const std::int64_t length : {5, 64, 65, 300, 900})
      for (const std::int64_t longest : {3, 40, 600}) {
        SCOPED_TRACE(str("documents up to ", longest));
        expect_reference({2, length, length, 2, 1, 16}, types,
                         test::random_documents(2, length, longest));
      }
    expect_reference({2, 600, 600, 4, 2, 8}, types, test::random_starts(2, 600));
    expect_reference({1, 77, 77, 2, 2, 7}, types, test::random_starts(1, 77));
  }
}

TEST(Attention, OneDocumentARowIsNoMask) {
  for (const Types& types : kTypes) {
    const AttentionShape s = {2, 700, 700, 4, 2, 8};
    const Tensor starts = Tensor::zeros({2, 700}, DType::i32);
    const Passes a = passes(s, types.type), b = passes(s, types.type, 1, starts);
    for (const auto& [x, y] :
         {std::pair(a.out, b.out), {a.lse, b.lse}, {a.dq, b.dq}, {a.dk, b.dk}, {a.dv, b.dv}})
      EXPECT_TRUE(same_bits(x, y)) << name(types.type);
  }
}

// Rows [100, 450) of the second sequence are a document; what surrounds it is changed, and asks for
// gradients, without it.
TEST(Attention, NothingPassesBetweenDocuments) {
  const std::int64_t length = 600, first = length + 100, count = 350;
  const AttentionShape s = {2, length, length, 4, 2, 8};
  const Tensor starts = Tensor::zeros({2, length}, DType::i32);
  test::set_document(starts, 1, 100, 450);
  test::set_document(starts, 1, 450, length);
  const auto inside = [&](const Tensor& t) { return t.slice(first, count); };
  for (const Types& types : kTypes) {
    const Passes want = passes(s, types.type, 1, starts);
    Passes other = passes(s, types.type, 1, starts);
    for (Tensor* t : {&other.q, &other.k, &other.v, &other.dout}) {
      const Tensor kept = inside(*t).clone();
      cpu_backend().scale(*t, -3);
      inside(*t).copy_from(kept);
    }
    other.run(starts, s);
    for (const auto& [a, b] : {std::pair(want.out, other.out),
                               {want.dq, other.dq},
                               {want.dk, other.dk},
                               {want.dv, other.dv}}) {
      EXPECT_TRUE(same_bits(inside(a), inside(b))) << name(types.type);
      EXPECT_FALSE(same_bits(a.slice(0, 50), b.slice(0, 50)));
    }
    // The output of the document alone has gradients: those of all else are exactly 0.
    Passes alone = passes(s, types.type, 1, starts);
    const Tensor kept = inside(alone.dout).clone();
    cpu_backend().fill(alone.dout, 0);
    inside(alone.dout).copy_from(kept);
    alone.run(starts, s);
    for (const Tensor& t : {alone.dq, alone.dk, alone.dv}) {
      const auto values = to_doubles(t);
      const std::int64_t cols = t.cols();
      for (std::int64_t i = 0; i < t.size(); ++i) {
        if (i / cols < first || i / cols >= first + count) {
          ASSERT_EQ(values[std::size_t(i)], 0) << name(types.type) << " row " << i / cols;
        }
      }
    }
    EXPECT_TRUE(same_bits(inside(alone.dk), inside(want.dk)));
  }
}

TEST(Attention, ADocumentInARowIsWhatItIsAlone) {
  for (const auto& [first, count] : {std::pair{0L, 70L}, {70L, 300L}, {370L, 1L}, {371L, 29L}}) {
    const std::int64_t length = 400;
    const Tensor starts = Tensor::zeros({2, length}, DType::i32);
    for (const std::int64_t s : {0, 1}) {
      test::set_document(starts, s, 70, 370);
      test::set_document(starts, s, 370, 371);
      test::set_document(starts, s, 371, length);
    }
    const AttentionShape both = {2, length, length, 4, 2, 8}, one = {1, count, count, 4, 2, 8};
    const Passes r = passes(both, DType::f64, 1, starts);
    const auto part = [&, first = first, count = count](const Tensor& t) {
      return t.slice(length + first, count);
    };
    Passes alone = passes(one, DType::f64);
    alone.q = part(r.q), alone.k = part(r.k), alone.v = part(r.v), alone.dout = part(r.dout);
    alone.run({}, one);
    for (const auto& [a, b] :
         {std::pair(alone.out, r.out), {alone.dq, r.dq}, {alone.dk, r.dk}, {alone.dv, r.dv}})
      EXPECT_TRUE(test::near(a, to_doubles(part(b)), 1e-13)) << first;
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
  cpu_backend().attention_forward(out, lse, second(r.q), second(r.k), second(r.v), {}, one);
  cpu_backend().attention_backward(dq, dk, dv, second(r.dout), second(r.q), second(r.k),
                                   second(r.v), out, lse, {}, one);
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
