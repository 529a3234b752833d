// SPDX-License-Identifier: Apache-2.0
// The graphs that cuDNN makes kernels of are computed by hand here, so what they mean is known
// without a device; that cuDNN has kernels for them is tested where cuDNN is (tests/cudnn).
#include "kernels/cuda/attention_graph.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "support/document_starts.h"
#include "support/graph_interpreter.h"
#include "support/tensor_tools.h"

namespace moe {
namespace {

using namespace test;

const std::vector<AttentionShape> kShapes = {
    {1, 1, 1, 1, 1, 1}, {2, 7, 7, 3, 3, 4}, {1, 9, 9, 4, 2, 8}, {2, 16, 16, 6, 1, 2}};

/// Attention of `shape` in f64 by the CPU's backend, with its gradients.
struct Expected {
  Tensor q, k, v, dout, out, lse, dq, dk, dv;
  explicit Expected(const AttentionShape& s, const Tensor& starts)
      : q(random_tensor({s.batch * s.q_length, s.heads * s.head_dim}, DType::f64, 1)),
        k(random_tensor({s.batch * s.kv_length, s.kv_heads * s.head_dim}, DType::f64, 2)),
        v(random_tensor(k.shape(), DType::f64, 3)),
        dout(random_tensor(q.shape(), DType::f64, 4)),
        out(empty_like(q)),
        lse(Tensor::empty({s.batch, s.heads, s.q_length}, DType::f64)),
        dq(empty_like(q)),
        dk(empty_like(k)),
        dv(empty_like(v)) {
    cpu_backend().attention_forward(out, lse, q, k, v, starts, s);
    cpu_backend().attention_backward(dq, dk, dv, dout, q, k, v, out, lse, starts, s);
  }
};

/// f(shape, starts as i32, starts as the graph's argument) for every shape, with documents and
/// without.
template <class F>
void for_cases(F&& f) {
  for (const AttentionShape& s : kShapes) {
    f(s, Tensor(), Tensor());
    for (const Tensor& starts :
         {random_documents(s.batch, s.q_length, 5), random_starts(s.batch, s.q_length)})
      f(s, starts, from_doubles(starts.shape(), DType::f64, to_doubles(starts)));
  }
}

TEST(AttentionGraph, ForwardIsAttention) {
  for_cases([](const AttentionShape& s, const Tensor& starts, const Tensor& argument) {
    const Expected e(s, starts);
    const Tensor out = poisoned(e.out.shape(), DType::f64),
                 lse = poisoned(e.lse.shape(), DType::f64);
    std::vector<void*> arguments = {e.q.bytes(), e.k.bytes(), e.v.bytes(), out.bytes(),
                                    lse.bytes()};
    if (starts.defined()) arguments.push_back(argument.bytes());
    interpret(attention_forward_graph({s, s.heads, s.kv_heads}, starts.defined()), arguments,
              ArgumentTypes::f64);
    EXPECT_TRUE(near(out, to_doubles(e.out), 1e-13));
    EXPECT_TRUE(near(lse, to_doubles(e.lse), 1e-13));
  });
}

TEST(AttentionGraph, BackwardIsItsGradient) {
  for_cases([](const AttentionShape& s, const Tensor& starts, const Tensor& argument) {
    const Expected e(s, starts);
    const Tensor delta = poisoned(e.lse.shape(), DType::f64),
                 dq = poisoned(e.q.shape(), DType::f64), dk = poisoned(e.k.shape(), DType::f64),
                 dv = poisoned(e.k.shape(), DType::f64);
    std::vector<void*> arguments = {e.q.bytes(),    e.k.bytes(),   e.v.bytes(),   e.out.bytes(),
                                    e.dout.bytes(), e.lse.bytes(), delta.bytes(), dq.bytes(),
                                    dk.bytes(),     dv.bytes()};
    if (starts.defined()) arguments.push_back(argument.bytes());
    interpret(attention_backward_graph({s, s.heads, s.kv_heads}, starts.defined()), arguments,
              ArgumentTypes::f64);
    EXPECT_TRUE(near(dq, to_doubles(e.dq), 1e-13));
    EXPECT_TRUE(near(dk, to_doubles(e.dk), 1e-13));
    EXPECT_TRUE(near(dv, to_doubles(e.dv), 1e-13));
  });
}

TEST(AttentionGraph, PartsOfABackwardPassAreEvenAndStayBelowTheirLimit) {
  const std::vector<std::pair<AttentionShape, std::array<std::int64_t, 3>>> cases = {
      {{4, 4096, 4096, 32, 8, 128}, {1, 32, 8}},   {{8, 2048, 2048, 32, 32, 128}, {4, 32, 32}},
      {{6, 1024, 1024, 32, 8, 128}, {6, 32, 8}},   {{1, 8192, 8192, 32, 8, 128}, {1, 8, 2}},
      {{3, 4096, 4096, 40, 40, 128}, {1, 20, 20}}, {{2, 32768, 32768, 32, 8, 128}, {1, 4, 1}},
      {{2, 64, 64, 4, 2, 8}, {2, 4, 2}},           {{5, 3072, 3072, 32, 8, 64}, {1, 32, 8}}};
  for (const auto& [shape, expected] : cases) {
    const AttentionPart part = backward_part(shape, std::int64_t{1} << 30);
    EXPECT_EQ((std::array{part.shape.batch, part.shape.heads, part.shape.kv_heads}), expected);
    EXPECT_EQ(part.row_heads, shape.heads);
    EXPECT_EQ(part.row_kv_heads, shape.kv_heads);
    EXPECT_EQ(shape.batch % part.shape.batch, 0);
    EXPECT_EQ(shape.kv_heads % part.shape.kv_heads, 0);
  }
}

}  // namespace
}  // namespace moe
